"""The most memory that a process held, its own, on every system; and what it can still take."""

import subprocess
import sys
from types import SimpleNamespace

import psutil
import pytest

from flashvsr_trt import process_memory
from flashvsr_trt.process_memory import free_host_memory, peak_process_bytes

LARGE = 200 << 20

CHILD = "from flashvsr_trt.process_memory import peak_process_bytes; print(peak_process_bytes())"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands a parent's peak on")
def test_a_parents_peak_is_not_its_childs():
    held = bytearray(LARGE)
    held[:: 1 << 12] = b"\1" * len(held[:: 1 << 12])
    assert peak_process_bytes() > LARGE
    ran = subprocess.run(
        [sys.executable, "-c", CHILD], capture_output=True, text=True, check=True, timeout=60
    )
    assert 1 << 20 < int(ran.stdout) < LARGE


def test_what_was_freed_is_counted():
    before = peak_process_bytes()
    held = bytearray(before + LARGE)
    held[:: 1 << 12] = b"\1" * len(held[:: 1 << 12])
    del held
    assert peak_process_bytes() > before + LARGE // 2


@pytest.mark.parametrize(
    ("fields", "told", "peak"), [({"rss": 5, "peak_wset": 9}, [], 9), ({"rss": 5}, ["what it holds now"], 5)]
)
def test_other_systems_are_asked_through_psutil(monkeypatch, tmp_path, fields, told, peak):
    monkeypatch.setattr(process_memory, "STATUS", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", "another")
    monkeypatch.setattr(psutil.Process, "memory_info", lambda self: SimpleNamespace(**fields))
    notices = []
    assert peak_process_bytes(notices.append) == peak
    assert len(notices) == len(told)
    assert all(text in notice for text, notice in zip(told, notices, strict=True))


@pytest.mark.parametrize(
    ("line", "folder", "limit_file", "used_file", "cached"),
    [
        ("0::/job", "job", "memory.max", "memory.current", "inactive_file"),
        ("0::/host/name/of/it", "", "memory.max", "memory.current", "inactive_file"),
        (
            "4:cpu,memory:/job",
            "memory",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
    ],
)
def test_a_limit_of_a_container_counts(tmp_path, line, folder, limit_file, used_file, cached):
    own, group = tmp_path / "own", tmp_path / "groups" / folder
    own.write_text(f"{line}\n")
    group.mkdir(parents=True)
    (group / limit_file).write_text("1000000\n")
    (group / used_file).write_text("700000\n")
    (group / "memory.stat").write_text(f"anon 5\n{cached} 50000\n")
    assert free_host_memory(tmp_path / "groups", own) == 350000
    (group / limit_file).write_text("max\n" if "max" in limit_file else f"{2**63}\n")
    assert free_host_memory(tmp_path / "groups", own) > 350000
    assert free_host_memory(tmp_path / "groups", tmp_path / "none") > 350000
