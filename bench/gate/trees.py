"""The trees that are compared: a worktree of the base, and a measuring process in each."""

import hashlib
import json
import os
import select
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

from bench.gate.measure import Metrics
from flashvsr_trt.errors import FlashVSRError
from flashvsr_trt.notices import Notify

ANSWER_SECONDS = 900
"""What no sample takes."""


class MeasureError(FlashVSRError):
    """A case could not be measured in a tree."""


def git(root: Path, *arguments: str) -> str | None:
    """What git prints, without the last line's end; None where it fails or is not there."""
    try:
        ran = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        return None
    return ran.stdout.strip() if ran.returncode == 0 else None


@contextmanager
def worktree(root: Path, commit: str) -> Iterator[Path]:
    """A tree of its own for a commit, in a temporary folder, and gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="flashvsr-gate-") as folder:
        tree = Path(folder) / "base"
        if git(root, "worktree", "add", "--detach", str(tree), commit) is None:
            raise FlashVSRError(f"git cannot make a worktree of {commit}; see `git worktree list`")
        try:
            yield tree
        finally:
            git(root, "worktree", "remove", "--force", str(tree))


EXTRAS = ("kernels", "cpu", "export")
"""What cases need; the others are for engines, or for tests."""


def dependencies(tree: Path) -> list[str]:
    """What pyproject.toml asks for, with EXTRAS, as constraints.txt pins it; sorted."""
    project = tomllib.loads((tree / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project.get("optional-dependencies", {})
    needs = {*project["dependencies"], *(need for name in EXTRAS for need in extras.get(name, ()))}
    names = {Requirement(need).name for need in needs}
    pins = tree / "constraints.txt"
    lines = pins.read_text(encoding="utf-8").splitlines() if pins.exists() else []
    return sorted(needs | {line for line in lines if line[:1].isalpha() and Requirement(line).name in names})


def is_installed(need: str) -> bool:
    """Whether this Python has what a requirement asks for, if it does so here."""
    wanted = Requirement(need)
    if wanted.marker and not wanted.marker.evaluate():
        return True
    try:
        return wanted.specifier.contains(version(wanted.name), prereleases=True)
    except PackageNotFoundError:
        return False


def python_of(base: Path, head: Path, notify: Notify) -> str:
    """The Python that runs the base: this one, or one of its own where it asks for what this one lacks.

    What the head asks for as well is not looked at: there it would be missing too.
    """
    needs = dependencies(base)
    if all(map(is_installed, set(needs).difference(dependencies(head)))):
        return sys.executable
    digest = hashlib.sha256("\n".join(needs).encode()).hexdigest()[:12]
    folder = head / "build" / f"gate-{digest}"
    python, marker = folder / "bin" / "python", folder / "installed"
    if not marker.exists():
        notify(f"the base has other dependencies: installing them in {folder}")
        make = [sys.executable, "-m", "venv", str(folder)]
        for command in (make, [str(python), "-m", "pip", "install", "--quiet", *needs]):
            if subprocess.run(command, stdout=sys.stderr, check=False).returncode:
                raise FlashVSRError(f"the base's dependencies cannot be installed in {folder}; see above")
        marker.touch()
    return str(python)


class Worker:
    """A measuring process in a tree, with one thread for torch. As a context manager it is ended."""

    def __init__(self, tree: Path, python: str = sys.executable, fault: str | None = None) -> None:
        self.tree = tree
        self.command = [python, "-m", "bench.gate.measure", *(("--fault", fault) if fault else ())]
        self._start()

    def _start(self) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - as long as the process
        # The tree before what else the user has there, this checkout perhaps.
        path = os.pathsep.join(filter(None, (str(self.tree), os.environ.get("PYTHONPATH"))))
        self.process = subprocess.Popen(
            self.command,
            cwd=self.tree,
            env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            bufsize=0,
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._end(seconds=60)

    def _end(self, seconds: float) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        try:
            self.process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()
        self.errors.close()

    def ask(self, case: str) -> None:
        """Start a sample; `answer` waits for it. A process that ended is started again: this case may do."""
        if self.process.poll() is not None:
            self._end(seconds=0)
            self._start()
        assert self.process.stdin
        with suppress(BrokenPipeError):  # it ended just now, and `answer` says of what
            self.process.stdin.write(f"{case}\n".encode())

    def answer(self) -> Metrics:
        """The metrics of what was asked last. Raises MeasureError: it failed, or took ANSWER_SECONDS."""
        assert self.process.stdout
        ready, _, _ = select.select([self.process.stdout], [], [], ANSWER_SECONDS)
        line = self.process.stdout.readline() if ready else b""
        if not line:
            # A late answer must not be taken for that of the next case.
            self.process.kill()
            status = self.process.wait()
            how = f"ended with {status}" if ready else f"took more than {ANSWER_SECONDS} s"
            raise MeasureError(f"the measuring process {how}: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise MeasureError(f"{answer['case']}: {answer['error']}")
        return answer["metrics"]

    def sample(self, case: str) -> Metrics:
        """Ask, and wait."""
        self.ask(case)
        return self.answer()

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"
