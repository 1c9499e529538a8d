"""A newcomer: a home folder, a clean environment, and what is typed there."""

import os
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.cli.command import Outcome

ROOT = Path(__file__).resolve().parents[2]

OURS = ("PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME", "FLASHVSR_CACHE", "FLASHVSR_WEIGHTS")
"""Variables of who runs the tests, which a newcomer has not."""


@dataclass(frozen=True)
class Newcomer:
    """Everything is typed in `home`, where the environment's commands come first."""

    home: Path
    environment: Path
    variables: dict[str, str] = field(default_factory=dict)

    def type(self, line: str, code: int = 0, seconds: float = 600) -> Outcome:
        """What a line of the shell does. Fails the test where it ends with another code, or a traceback."""
        process = self.start(line)
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
        assert "Traceback" not in err, err
        assert process.returncode == code, f"$ {line}\n{out}{err}"
        return Outcome(process.returncode, out, err)

    def start(self, line: str) -> subprocess.Popen:
        """The same, left running."""
        known = {name: value for name, value in os.environ.items() if name not in OURS}
        path = f"{self.environment / 'bin'}{os.pathsep}{known['PATH']}"
        variables = known | {"HOME": str(self.home), "PATH": path, "COLUMNS": "100"} | self.variables
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL}
        return subprocess.Popen(
            ["bash", "-c", f"exec {line}"], cwd=self.home, env=variables, text=True, **pipes
        )


def newcomer(folder: Path, python: str) -> Newcomer:
    """With an environment that `python` makes."""
    home = folder / "home"
    home.mkdir()
    subprocess.run([python, "-m", "venv", str(folder / "venv")], check=True, timeout=120)
    return Newcomer(home, folder / "venv")


def named_command(error: str, start: str = "pip install ") -> str:
    """The command that an error names, as one copies it: up to its last closing quote."""
    place = error.rindex(start)
    command = error[place:].splitlines()[0]
    command = command[: command.rindex('"') + 1]
    assert shlex.split(command)[:2] == ["pip", "install"]
    return command
