"""Large blocks that a CPU stage frees are there for the next chunk."""

import platform
import subprocess
import sys

import pytest

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
