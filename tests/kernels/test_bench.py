import pytest
import torch

from bench import gpu_report, kernels
from bench.gpu_timing import require_gpu

REPORT = {
    "device": "a GPU",
    "torch": "2.0",
    "ceilings": {"tflops": 700.0, "gbytes": 3000.0},
    "lines": [
        {
            "scene": "640x384",
            "kernel": "select_blocks",
            "microseconds": 20.04,
            "rate": 30.4,
            "unit": "GB/s",
            "share": 0.0101,
            "instead": {"torch sort": 127.0},
        }
    ],
}


def test_a_cpu_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="1"):
        require_gpu()
    assert "no CUDA device is visible" in capsys.readouterr().err


def test_the_table_has_a_row_per_kernel():
    head, _, *rows = kernels.table(REPORT).splitlines()
    assert "700 TFLOP/s" in head
    assert rows[-1] == "| 640x384 | select_blocks | 20.0 | 30 GB/s | 1% | torch sort 127 |"


def test_the_report_names_failed_tests():
    report = {"device": "a GPU", "tests": {"run": 2, "skipped": 0, "failed": ["x.y"]}, "kernels": REPORT}
    text = gpu_report.markdown(report)
    assert "2 run, 0 skipped, 1 failed." in text
    assert "- failed: `x.y`" in text
