"""What the gate found, as Markdown for a pull request and as JSON for machines."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bench.gate.verdict import Line, Verdict, overall

QUIET = (Verdict.PASS, Verdict.NEW)
"""Folded away, but for what was taken in turns."""

HEADER = "| line | base | head | change | verdict |\n| --- | ---: | ---: | ---: | --- |"

Trend = Mapping[str, Sequence[float]]
"""Line -> its values in the history of the baselines, the oldest first."""


def as_json(lines: Sequence[Line], about: Mapping[str, Any], trend: Trend) -> dict[str, Any]:
    """All of it."""
    rows = [asdict(line) | {"name": line.name} for line in lines]
    return {"verdict": overall(lines), **about, "lines": rows, "trend": dict(trend)}


def markdown(lines: Sequence[Line], about: Mapping[str, Any], trend: Trend) -> str:
    """The verdict, what failed and what was timed; the rest is folded away."""
    counted = Counter(line.verdict for line in lines)
    summary = ", ".join(f"{count} {verdict}" for verdict, count in counted.items())
    shown = [line for line in lines if line.verdict not in QUIET or line.ratio]
    folded = [line for line in lines if line not in shown]
    parts = [
        f"## Gate: {overall(lines)}",
        "; ".join(f"{name} {value}" for name, value in about.items()),
        summary,
    ]
    if shown:
        parts.append(table(shown))
    if trend:
        rows = (f"| {name} | {' -> '.join(map(number, values))} |" for name, values in trend.items())
        parts.append("\n".join(("| trend of the baselines | oldest to newest |", "| --- | --- |", *rows)))
    if folded:
        title = f"<details><summary>{len(folded)} other lines</summary>"
        parts += [title, table(folded), "</details>"]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(lines: Iterable[Line]) -> str:
    """A row a line."""
    return "\n".join((HEADER, *map(row, lines)))


def row(line: Line) -> str:
    """One row; a ratio comes with its interval."""
    verdict = f"**{line.verdict}**" if line.verdict not in QUIET else str(line.verdict)
    cells = line.name, number(line.base), number(line.head), change(line)
    return f"| {' | '.join(cells)} | {verdict}{f': {line.why}' if line.why else ''} |".replace("\n", " ")


def change(line: Line) -> str:
    """Of the ratio where there is one, else of the values."""
    if line.ratio:
        ratio = line.ratio
        return f"{ratio.median:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
    if line.base is None or line.head is None:
        return "-"
    difference = line.head - line.base
    return "0" if difference == 0 else f"{difference:+.4g}"


def number(value: float | None) -> str:
    """Whole numbers as they are, others with four digits."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value == int(value) else f"{value:.4g}"
