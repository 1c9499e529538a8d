"""Rank 0 says why a job ended, whatever it was doing at SIGTERM; a job that ends well leaves nothing."""

import subprocess
import sys

import pytest

from tests.distributed.launch import ROOT, environment

WATCHED = """
import ctypes, os, signal, sys, threading
from flashvsr_trt.errors import DistributedError
from flashvsr_trt.runtime.distributed import end as distributed_end

distributed_end.EndWatch(lambda: False, lambda cause: DistributedError("rank 1 is gone"))
"""

IN_NATIVE_CODE = """
distributed_end.GRACE_SECONDS = 0.01
lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(128)
lock(mutex)
waits = threading.Lock()

def end():
    with waits:
        os.kill(os.getpid(), signal.SIGTERM)

with waits:
    threading.Thread(target=end).start()
    # From here on the other thread runs only when this one leaves Python, which is in the last line.
    sys.setswitchinterval(1000)
lock(mutex)
"""

IN_PYTHON = """
try:
    os.kill(os.getpid(), signal.SIGTERM)
    while True:
        pass
except DistributedError as error:
    print(f"error: {error}", file=sys.stderr)
    os._exit(error.exit_code)
"""


@pytest.mark.parametrize("waiting", [IN_NATIVE_CODE, IN_PYTHON], ids=["in native code", "in Python"])
def test_the_end_of_the_job_is_reported_once(waiting):
    command = [sys.executable, "-c", WATCHED + waiting]
    ended = subprocess.run(
        command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == "error: rank 1 is gone\n"


ENDED_WELL = """
import weakref
import torch.distributed as dist
from flashvsr_trt.runtime.distributed.place import Place
from flashvsr_trt.runtime.distributed.group import join_group, leave_group

group = join_group("cpu", Place(rank=0, size=1, local_rank=0, local_size=1))
import torch._dynamo
group.share("a message")
groups = [group.control, *(ranks.group for ranks in group.communicators.values())]
assert dist.group.WORLD in groups
left = [weakref.ref(other) for other in groups]
del groups
leave_group(group)
print([group() for group in left])
"""


def test_no_group_and_none_of_its_threads_outlives_a_job_that_ends_well():
    job = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}
    ended = subprocess.run(
        [sys.executable, "-c", ENDED_WELL],
        env=environment() | job,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.stdout == f"{[None] * 6}\n", ended.stderr
