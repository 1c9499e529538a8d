"""Lines and verdicts: a metric of a case beside the base's, held to its threshold."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase

from bench.gate.cases import Case, Threshold
from bench.gate.paired import Ratio
from flashvsr_trt.errors import FlashVSRError


class Verdict(StrEnum):
    """Of a line, and of the whole: the first that any line has, in this order."""

    REGRESSION = "REGRESSION"
    SUSPECT = "SUSPECT"
    UNMEASURED = "UNMEASURED"
    MISMATCH = "MISMATCH"
    CALIBRATION_NEEDED = "CALIBRATION_NEEDED"
    ACCEPTED = "ACCEPTED"
    NEW = "NEW"
    PASS = "PASS"


class GateError(FlashVSRError):
    """A regression, or a gain that is too good to be true."""

    exit_code = 4


class CalibrationNeededError(FlashVSRError):
    """Too few records of this fingerprint."""

    exit_code = 5


class MismatchError(FlashVSRError):
    """No records of this fingerprint."""

    exit_code = 6


FAILURES: Mapping[Verdict, type[FlashVSRError]] = {
    Verdict.REGRESSION: GateError,
    Verdict.SUSPECT: GateError,
    Verdict.UNMEASURED: FlashVSRError,
    Verdict.MISMATCH: MismatchError,
    Verdict.CALIBRATION_NEEDED: CalibrationNeededError,
}


@dataclass(frozen=True)
class Line:
    """One metric. `base` and `head` are None where a tree has none; `ratio` is of what was taken in turns."""

    case: str
    metric: str
    verdict: Verdict
    base: float | None
    head: float | None
    why: str = ""
    ratio: Ratio | None = None
    threshold: str = ""

    @property
    def name(self) -> str:
        """`counts/chunk:operators`."""
        return f"{self.case}:{self.metric}"


def judge(case: Case, metric: str, base: float, head: float, threshold: Threshold) -> Line:
    """A line that is measured once a tree."""
    worse = {"lower": head - base, "higher": base - head, "same": abs(head - base)}[threshold.better]
    verdict, why = Verdict.PASS, ""
    if threshold.limit is not None and _beyond(head, threshold):
        verdict, why = Verdict.REGRESSION, f"beyond the limit of {threshold.limit:g}"
    elif worse > threshold.absolute and worse > threshold.relative * abs(base):
        verdict, why = Verdict.REGRESSION, _limits(threshold)
    elif threshold.improbable is not None and -worse > max(
        threshold.absolute, threshold.improbable * abs(base)
    ):
        verdict, why = Verdict.SUSPECT, f"a gain of more than {threshold.improbable:.0%} is improbable"
    return Line(case.name, metric, verdict, base, head, why, None, threshold.name)


def line_of(case: Case, metric: str, base: float | None, head: float | None, threshold: Threshold) -> Line:
    """As `judge`, where a tree may lack the metric: lost, or new, for which a limit holds as well."""
    if head is None:
        return Line(case.name, metric, Verdict.REGRESSION, base, None, "lost")
    if base is None:
        line = judge(case, metric, head, head, threshold)
        return replace(line, base=None, verdict=Verdict.NEW if line.verdict is Verdict.PASS else line.verdict)
    return judge(case, metric, base, head, threshold)


def judge_ratio(
    case: Case, metric: str, base: float, head: float, ratio: Ratio, threshold: Threshold
) -> Line:
    """A line whose samples were taken in turns: it fails where the whole interval is past the threshold."""
    verdict, why = Verdict.PASS, ""
    if threshold.limit is not None and _beyond(head, threshold):
        verdict, why = Verdict.REGRESSION, f"beyond the limit of {threshold.limit:g}"
    elif ratio.low > 1 + threshold.relative and head - base > threshold.absolute:
        verdict, why = Verdict.REGRESSION, _limits(threshold)
    elif threshold.improbable is not None and ratio.high < 1 - threshold.improbable:
        verdict, why = Verdict.SUSPECT, f"a gain of more than {threshold.improbable:.0%} is improbable"
    elif too_wide(ratio, threshold):
        verdict = Verdict.UNMEASURED
        why = f"unsure by {ratio.half_width:.1%}, and {threshold.relative:.0%} is to be seen"
    return Line(case.name, metric, verdict, base, head, why, ratio, threshold.name)


def too_wide(ratio: Ratio, threshold: Threshold) -> bool:
    """Whether a regression of twice the threshold could hide in the interval."""
    return ratio.high > 1 + 2 * threshold.relative and ratio.half_width > threshold.relative


def accepted(lines: Iterable[Line], reasons: Mapping[str, str]) -> list[Line]:
    """The lines; those that fail and fit a pattern of `reasons` are ACCEPTED."""
    made = []
    for line in lines:
        fits = [why for pattern, why in reasons.items() if fnmatchcase(line.name, pattern)]
        failed = line.verdict in (Verdict.REGRESSION, Verdict.SUSPECT)
        made.append(replace(line, verdict=Verdict.ACCEPTED, why=fits[0]) if failed and fits else line)
    return made


def overall(lines: Iterable[Line]) -> Verdict:
    """REGRESSION before all else; PASS where nothing failed."""
    found = {line.verdict for line in lines}
    return next((verdict for verdict in FAILURES if verdict in found), Verdict.PASS)


def raise_failure(lines: Iterable[Line]) -> None:
    """Raises what the verdict's exit code belongs to, with the lines that have it."""
    lines = list(lines)
    verdict = overall(lines)
    if verdict in FAILURES:
        names = [line.name for line in lines if line.verdict is verdict]
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise FAILURES[verdict](f"gate: {verdict}: {shown}")


def _beyond(value: float, threshold: Threshold) -> bool:
    assert threshold.limit is not None
    return value < threshold.limit if threshold.better == "higher" else value > threshold.limit


def _limits(threshold: Threshold) -> str:
    if threshold.better == "same":
        return "must stay the same"
    relative = f"{threshold.relative:.1%} and " if threshold.relative else ""
    return f"worse by more than {relative}{threshold.absolute:g}"
