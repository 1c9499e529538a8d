"""Cases and thresholds, as cases.toml and thresholds.toml have them."""

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from flashvsr_trt.errors import UsageError

FOLDER = Path("bench/gate")
"""Of a checkout."""

KINDS = ("parity", "counts", "memory", "latency")


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
    """What is measured. `lines`: pattern of a metric's name -> name of its threshold, the first that fits."""

    name: str
    measure: str
    preset: str
    lines: Mapping[str, str]
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: str = ""
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


def read_cases(tree: Path) -> dict[str, Case]:
    """The cases of a checkout by name; none where it has no gate. Raises UsageError for an unknown kind."""
    path = tree / FOLDER / "cases.toml"
    if not path.is_file():
        return {}
    cases = [Case(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["case"]]
    for case in cases:
        if case.kind not in KINDS:
            raise UsageError(f"case {case.name}: its name begins with one of: {', '.join(KINDS)}")
    return {case.name: case for case in cases}


def read_thresholds(tree: Path) -> dict[str, Threshold]:
    """The thresholds of a checkout by name."""
    entries = tomllib.loads((tree / FOLDER / "thresholds.toml").read_text(encoding="utf-8"))
    return {name: Threshold(name=name, **entry) for name, entry in entries.items()}


def choose(cases: Iterable[Case], patterns: Sequence[str], gpu: bool) -> tuple[list[Case], list[Case]]:
    """The cases whose name fits a pattern, and those of them that need a GPU where there is none.

    Raises:
        UsageError: a pattern fits no case.
    """
    cases = list(cases)
    for pattern in patterns:
        if not any(fnmatchcase(case.name, pattern) for case in cases):
            raise UsageError(f"--case {pattern} fits none of: {', '.join(case.name for case in cases)}")
    fit = [c for c in cases if not patterns or any(fnmatchcase(c.name, pattern) for pattern in patterns)]
    left_out = [case for case in fit if case.needs == "gpu" and not gpu]
    return [case for case in fit if case not in left_out], left_out
