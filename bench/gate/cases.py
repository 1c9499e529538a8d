"""Cases and thresholds, as cases.toml and thresholds.toml have them."""

import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flashvsr_trt.errors import UsageError

FOLDER = Path("bench/gate")
"""Of a checkout."""

KINDS = ("parity", "counts", "memory", "latency")

GPU = "gpu"


@dataclass(frozen=True)
class Threshold:
    """How far a metric may get worse: it fails past `relative` AND `absolute`, or past `limit` alone."""

    name: str
    better: str
    relative: float
    absolute: float
    reason: str
    limit: float | None = None
    improbable: float | None = None

    def __post_init__(self) -> None:
        if self.better not in ("lower", "higher", "same") or not self.reason:
            raise UsageError(f"threshold {self.name}: better is lower, higher or same, and it has a reason")


@dataclass(frozen=True)
class Case:
    """What is measured. `lines`: pattern of a metric's name -> name of its threshold, the first that fits.

    `needs`: GPU, or modules, where what is measured has to be there.
    """

    name: str
    measure: str
    preset: str
    lines: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: Sequence[str] = ()
    blocks: int = 8

    @property
    def kind(self) -> str:
        """One of KINDS."""
        return self.name.partition("/")[0]

    def threshold_of(self, metric: str) -> str:
        """The name of a metric's threshold. Raises UsageError where no pattern fits."""
        for pattern, name in self.lines.items():
            if fnmatchcase(metric, pattern):
                return name
        raise UsageError(f"{self.name} measures {metric}, and `lines` has no threshold for it")


def has_gate(tree: Path) -> bool:
    """Whether it is a checkout, and has cases."""
    return (tree / FOLDER / "cases.toml").is_file()


def read_entries(tree: Path) -> list[dict[str, Any]]:
    """The cases of a checkout as they are written."""
    return tomllib.loads((tree / FOLDER / "cases.toml").read_text(encoding="utf-8"))["case"]


def case_names(tree: Path) -> list[str]:
    """Of a checkout that may write its cases in another way; none where it has no gate."""
    return [entry["name"] for entry in read_entries(tree)] if has_gate(tree) else []


def read_cases(tree: Path) -> dict[str, Case]:
    """The cases of a checkout by name. Raises UsageError for an unknown kind."""
    cases = [Case(**entry) for entry in read_entries(tree)]
    for case in cases:
        if case.kind not in KINDS:
            raise UsageError(f"case {case.name}: its name begins with one of: {', '.join(KINDS)}")
    return {case.name: case for case in cases}


def read_thresholds(tree: Path) -> dict[str, Threshold]:
    """The thresholds of a checkout by name."""
    entries = tomllib.loads((tree / FOLDER / "thresholds.toml").read_text(encoding="utf-8"))
    return {name: Threshold(name=name, **entry) for name, entry in entries.items()}


@cache
def is_here(need: str) -> bool:
    """Whether this machine has what a case needs."""
    from bench.environment import driver_version

    return driver_version() is not None if need == GPU else find_spec(need) is not None


def choose(
    cases: Iterable[Case], patterns: Sequence[str], has: Callable[[str], bool] = is_here
) -> tuple[list[Case], dict[str, list[str]]]:
    """The cases whose name fits a pattern and whose needs are here; of the others, need -> names.

    Raises:
        UsageError: a pattern fits no case.
    """
    cases = list(cases)
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) for case in cases):
            raise UsageError(f"--case {pattern} fits none of: {', '.join(case.name for case in cases)}")
    fit = [c for c in cases if not patterns or any(fnmatchcase(c.name, pattern) for pattern in patterns)]
    chosen: list[Case] = []
    lacking: dict[str, list[str]] = {}
    for case in fit:
        need = next((need for need in case.needs if not has(need)), None)
        if need:
            lacking.setdefault(need, []).append(case.name)
        else:
            chosen.append(case)
    return chosen, lacking
