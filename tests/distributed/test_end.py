"""Rank 0 says why the job ended, whatever its main thread is doing when torchrun's SIGTERM comes."""

import subprocess
import sys

import pytest

from tests.distributed.launch import ROOT, environment

WATCHED = """
import ctypes, os, signal, threading
from flashvsr_trt.errors import DistributedError
from flashvsr_trt.runtime import distributed_end

distributed_end.EndWatch(lambda: False, lambda cause: DistributedError("rank 1 is gone"))
threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGTERM)).start()
"""

IN_NATIVE_CODE = """
distributed_end.GRACE_SECONDS = 0.01
lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, ctypes.create_string_buffer(128)
lock(mutex)
lock(mutex)
"""

IN_PYTHON = """
try:
    while True:
        pass
except DistributedError as error:
    print(f"error: {error}", file=__import__("sys").stderr)
    os._exit(error.exit_code)
"""


@pytest.mark.parametrize("waiting", [IN_NATIVE_CODE, IN_PYTHON], ids=["in native code", "in Python"])
def test_the_end_of_the_job_is_reported_once(waiting):
    command = [sys.executable, "-c", WATCHED + waiting]
    ended = subprocess.run(
        command, env=environment(), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == "error: rank 1 is gone\n"
