"""Baselines for machines that come and go: a fingerprint's records in bench/baselines/, and their median."""

import datetime
import hashlib
import json
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.gate.cases import GPU, Case, Threshold
from bench.gate.compare import lines_of
from bench.gate.measure import Metrics
from bench.gate.trees import MeasureError, Worker, git
from bench.gate.verdict import Line, Verdict

FOLDER = Path("bench/baselines")
"""Of a checkout."""

MEDIAN_OF = 5
"""A baseline is the median of so many of a fingerprint's last records."""

NEEDED = 3
"""With fewer records one bad moment would be the baseline."""

KEPT = 20

Record = dict[str, Any]
"""commit, date, and values: case -> metric -> value."""


def fingerprint(preset: str) -> dict[str, Any]:
    """What two machines must share for their figures to be compared."""
    from bench.environment import environment

    found = environment()
    return {
        "device": found["device"] or processor(),
        "driver": found["driver"],
        "cuda": found["cuda"] if found["device"] else None,
        "python": ".".join(found["python"].split(".")[:2]),
        "preset": preset,
        **dict(sorted(found["packages"].items())),
    }


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return named[1] if named else platform.processor() or platform.machine()


def baseline_path(root: Path, print_: Mapping[str, Any]) -> Path:
    """Readable in front and exact behind."""
    digest = hashlib.sha256(json.dumps(print_, sort_keys=True).encode()).hexdigest()[:10]
    device = re.sub(r"\W+", "-", print_["device"].lower()).strip("-")
    return root / FOLDER / f"{device}-{print_['preset']}-{digest}.json"


def can_be_kept(case: Case) -> bool:
    """Times of a CPU are of the moment; all else is a machine's own."""
    return case.kind != "latency" or GPU in case.needs


def measure(worker: Worker, case: Case) -> Metrics:
    """A case's metrics; the median of its samples of what takes time. Raises MeasureError."""
    if case.kind != "latency":
        return worker.sample(case.name)
    worker.sample(case.name)
    samples = [worker.sample(case.name) for _ in range(case.blocks)]
    return {metric: statistics.median(s[metric] for s in samples) for metric in samples[0]}


def read_records(path: Path) -> list[Record]:
    """The records of a file, the oldest first; none where there is no file."""
    return json.loads(path.read_text(encoding="utf-8"))["records"] if path.exists() else []


def add_record(path: Path, print_: Mapping[str, Any], commit: str, values: Mapping[str, Metrics]) -> None:
    """One more record, of KEPT."""
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M")
    records = [*read_records(path), {"commit": commit, "date": date, "values": values}][-KEPT:]
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"fingerprint": print_, "records": records}, indent=1) + "\n"
    part = path.with_suffix(".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def check_case(
    case: Case, head: Metrics, records: Sequence[Record], thresholds: Mapping[str, Threshold]
) -> list[Line]:
    """A case's metrics against the median of the last MEDIAN_OF records that have it."""
    of_case = [r["values"][case.name] for r in records if case.name in r["values"]][-MEDIAN_OF:]
    if len(of_case) < NEEDED:
        why = f"{len(of_case)} records of this fingerprint, {NEEDED} are needed: flashvsr-trt gate record"
        return [Line(case.name, "*", Verdict.CALIBRATION_NEEDED, None, None, why)]
    of_records = {m: statistics.median(v[m] for v in of_case if m in v) for m in of_case[-1]}
    return lines_of(case, of_records, head, thresholds)


def mismatch(root: Path, print_: Mapping[str, Any]) -> str:
    """How this fingerprint differs from the one of the same preset that is nearest."""
    others = [json.loads(path.read_text())["fingerprint"] for path in sorted((root / FOLDER).glob("*.json"))]
    others = [other for other in others if other["preset"] == print_["preset"]]
    if not others:
        return f"no machine has records of {print_['preset']}: flashvsr-trt gate record"
    differ = [[key for key in {**other, **print_} if print_.get(key) != other.get(key)] for other in others]
    keys, other = min(zip(differ, others, strict=True), key=lambda pair: len(pair[0]))
    return "; ".join(f"{key}: {print_.get(key)} here, {other.get(key)} in the records" for key in keys)


def check(
    root: Path, worker: Worker, cases: Iterable[Case], thresholds: Mapping[str, Threshold]
) -> list[Line]:
    """Lines of all cases; MISMATCH where no record has this fingerprint."""
    lines = []
    for case in cases:
        print_ = fingerprint(case.preset)
        path = baseline_path(root, print_)
        if not path.exists():
            lines.append(Line(case.name, "*", Verdict.MISMATCH, None, None, mismatch(root, print_)))
            continue
        try:
            lines += check_case(case, measure(worker, case), read_records(path), thresholds)
        except MeasureError as error:
            lines.append(Line(case.name, "*", Verdict.REGRESSION, None, None, str(error)))
    return lines


def trend(root: Path, presets: Iterable[str]) -> dict[str, list[float]]:
    """Line of time or memory -> its value in each commit of this machine's baselines."""
    found: dict[str, list[float]] = {}
    for preset in dict.fromkeys(presets):
        name = baseline_path(root, fingerprint(preset)).relative_to(root).as_posix()
        commits = (git(root, "log", "-n", str(KEPT), "--reverse", "--format=%H", "--", name) or "").split()
        for commit in commits:
            text = git(root, "show", f"{commit}:{name}")
            values = json.loads(text)["records"][-1]["values"] if text else {}
            for case, metrics in values.items():
                if case.startswith(("latency/", "memory/")):
                    for metric, value in metrics.items():
                        found.setdefault(f"{case}:{metric}", []).append(value)
    return found
