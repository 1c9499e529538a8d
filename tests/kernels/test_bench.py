import json
import sys
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from bench import gpu_report, kernels, pipeline
from bench.environment import environment
from bench.gpu_timing import require_gpu
from bench.unit_work import unit_work

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


def test_the_report_names_failed_tests_and_what_it_was_made_with():
    made_with = environment() | {"device": "a GPU", "driver": "999.1"}
    report = {
        "environment": made_with,
        "tests": {"run": 2, "skipped": 0, "failed": ["x.y"]},
        "kernels": REPORT,
    }
    text = gpu_report.markdown(report)
    assert text.startswith("# a GPU\n")
    assert "- driver: 999.1" in text
    assert f"torch {torch.__version__}" in text
    assert "2 run, 0 skipped, 1 failed." in text
    assert "- failed: `x.y`" in text
    assert "| 640x384 | select_blocks |" in text


def test_onnxruntime_is_named_by_the_distribution_whose_module_is_there(monkeypatch):
    gpu = SimpleNamespace(package_name="onnxruntime-gpu", __version__="1.31.1")
    monkeypatch.setitem(sys.modules, "onnxruntime.capi.build_and_package_info", gpu)
    found = environment()["packages"]
    assert found["onnxruntime-gpu"] == "1.31.1"
    assert "onnxruntime" not in found
    monkeypatch.setitem(sys.modules, "onnxruntime.capi.build_and_package_info", None)
    assert not any(name.startswith("onnxruntime") for name in environment()["packages"])


@pytest.mark.parametrize("bench", [pipeline, gpu_report])
def test_on_a_cpu_nothing_is_measured_or_written(bench, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    outcome = CliRunner().invoke(bench.main, [])
    assert outcome.exit_code == 1
    assert "no CUDA device is visible" in outcome.output
    assert list(tmp_path.iterdir()) == []


def test_the_work_of_a_chunk_is_the_models():
    """The figures counted by hand for 1280x768: linears 19.2, sparse attention 21.7, prompt 0.7 TFLOP."""
    work = unit_work(pipeline.stream_for("640x384", "sparse-2.0"))
    assert work.dit / 1e12 == pytest.approx(19.2 + 21.7 + 0.7, rel=0.01)
    assert work.encode / 1e12 == pytest.approx(5.3, rel=0.01)
    assert work.decode / 1e12 == pytest.approx(11.1, rel=0.01)


def test_dense_attention_is_work_on_every_key():
    dense, sparse = (unit_work(pipeline.stream_for("384x384", name)) for name in ("full-attn", "sparse-2.0"))
    windows, slots = 36, 4
    every = windows * windows * slots * 12 * 30 * 4 * 128**3
    kept = 4319 * 12 * 30 * 4 * 128**3
    # Block selection, which dense attention has none of, is less than 1 %.
    assert dense.dit - sparse.dit == pytest.approx(every - kept, rel=0.01)


def test_a_dry_run_prints_sizes_and_limits_and_no_times(tmp_path):
    path = tmp_path / "plan.json"
    arguments = ["--dry-run", "--scene", "1280x704", "--json", str(path)]
    outcome = CliRunner().invoke(pipeline.main, arguments)
    assert outcome.exit_code == 0, outcome.output
    (planned,) = json.loads(path.read_text())["plans"]
    assert (planned["target"], planned["windows"]) == ("2560x1408", 220)
    assert planned["limit_ms"] == pytest.approx(sum(planned["tflop"].values()) / 0.79)
    assert f"| {planned['limit_ms']:.1f} |" in outcome.output


def test_the_timing_table_says_what_ran():
    timing = pipeline.Timing(
        scene="640x384",
        precision="fp8",
        cuda_graphs=True,
        stage_ms={"encode": 8.0, "dit": 70.0, "decode": 16.0},
        chunk_ms=100.0,
        fps=80.0,
        clip_fps=75.0,
        of_limit=0.735,
        peak_gib=17.25,
        kernel_calls={"norm_rope/triton": 30.0, "block_sparse_attention/hopper": 30.0},
    )
    report = {
        "device": "a GPU",
        "torch": "2.13",
        "preset": "sparse-2.0",
        "compile": False,
        "plans": [],
        "timings": [asdict(timing)],
        "left_out": {"1280x704": "too large"},
    }
    text = pipeline.timing_table(report)
    row = "| 640x384 | fp8 | on | 8.0 | 70.0 | 16.0 | 100.0 | 80.0 | 74% | 75.0 | 17.2 | block_"
    assert row in text
    assert "1280x704 was left out: too large" in text
