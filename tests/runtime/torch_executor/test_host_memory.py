"""Large blocks that a CPU stage frees are there for the next chunk."""

import platform
import subprocess
import sys

import pytest

from flashvsr_trt.runtime.torch.host_memory import free_host_memory

CHURN = """
import resource
from flashvsr_trt.runtime.torch.host_memory import keep_freed_memory

assert keep_freed_memory()


def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        block = bytearray(64 << 20)
        del block
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


faults(2)
print(faults(4))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's own")
def test_blocks_that_come_back_cost_no_page_faults():
    def faults(program: str) -> int:
        made = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        return int(made.stdout)

    kept = faults(CHURN)
    given_back = faults(CHURN.replace("assert keep_freed_memory()", ""))
    assert kept * 10 < given_back


VERSION_1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


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
