"""Commands in processes that are forked from one that has imported everything: one costs milliseconds.

A command can be ended by a signal at its n-th access to a file, and its files can be limited in size.
"""

import contextlib
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

CHANGES = frozenset(
    [
        "open",
        "os.mkdir",
        "os.rename",
        "os.remove",
        "os.rmdir",
        "os.link",
        "os.chmod",
        "os.listdir",
        "os.scandir",
        "shutil.rmtree",
    ]
)
"""Audit events of Python at which a command may be ended."""


NOT_CAUGHT = 70
"""Exit code after an exception that the command line let through."""


@dataclass(frozen=True)
class Ended:
    """How a command ended: `code` is negative for a signal; `accesses` are those below its folder."""

    code: int
    err: str
    accesses: int


class ForkServer:
    """A context manager. Its process ends with the block."""

    def __enter__(self) -> "ForkServer":
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            cwd=ROOT,
            text=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=120)

    def run(
        self,
        folder: Path,
        *arguments: object,
        end_by: signal.Signals | None = None,
        end_at: int = 0,
        young_seconds: int = 10,
        file_bytes: int | None = None,
    ) -> Ended:
        """`flashvsr-trt ARGUMENTS` in `folder`; the signal comes at the access of that number."""
        job = {
            "folder": str(folder),
            "arguments": list(map(str, arguments)),
            "signal": end_by and int(end_by),
            "end_at": end_at,
            "young_seconds": young_seconds,
            "file_bytes": file_bytes,
        }
        print(json.dumps(job), file=self._process.stdin, flush=True)
        return Ended(**json.loads(self._process.stdout.readline()))


class _Count:
    """Accesses to files below a folder, and the signal at one of them."""

    def __init__(self, folder: str, end_by: int | None, end_at: int) -> None:
        self.folder, self.end_by, self.end_at, self.number = folder, end_by, end_at, 0

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in CHANGES or not self._is_below(arguments[0]):
            return
        self.number += 1
        if self.number == self.end_at:
            os.kill(os.getpid(), self.end_by)

    def _is_below(self, path: object) -> bool:
        return isinstance(path, str | os.PathLike) and os.path.abspath(path).startswith(self.folder + os.sep)


def _child(job: dict, errors: int, counts: int) -> None:
    from flashvsr_trt.cli.main import main
    from flashvsr_trt.files import staging

    os.chdir(job["folder"])
    os.dup2(errors, 1)
    os.dup2(errors, 2)
    # New objects: those of the parent remember what its own streams could do.
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115 - until the end
    staging.YOUNG_SECONDS = job["young_seconds"]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    if job["file_bytes"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"],) * 2)
    count = _Count(os.path.realpath(job["folder"]), job["signal"], job["end_at"])
    sys.addaudithook(count)
    code = 0
    try:
        main(job["arguments"])
    except SystemExit as request:
        code = request.code or 0
    except BaseException:
        traceback.print_exc()
        code = NOT_CAUGHT
    finally:
        os.write(counts, b"%d" % count.number)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        os._exit(code)


def _serve() -> None:
    from tests.fork_doubles import put_doubles

    put_doubles()
    # What is here already is no child's garbage: looking through it would copy its pages.
    gc.freeze()
    for line in sys.stdin:
        job = json.loads(line)
        error_reader, error_writer = os.pipe()
        count_reader, count_writer = os.pipe()
        process = os.fork()
        if process == 0:
            _child(job, error_writer, count_writer)
        os.close(error_writer)
        os.close(count_writer)
        with open(error_reader, "rb") as said, open(count_reader, "rb") as counted:
            # A video that goes to stdout comes here too.
            err, count = said.read().decode(errors="replace"), int(counted.read() or 0)
        _, status = os.waitpid(process, 0)
        ended = {"code": os.waitstatus_to_exitcode(status), "err": err, "accesses": count}
        print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    _serve()
