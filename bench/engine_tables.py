"""What `bench.engine_report` measured, as JSON and as tables in Markdown."""

import json
from pathlib import Path
from typing import Any


def markdown(report: dict[str, Any]) -> str:
    """The report in tables."""
    made = report["environment"]
    lines = [
        f"# Engines of the {report['flavour']} flavour on a GPU",
        "",
        f"{made['device']}, driver {made['driver']}, CUDA {made['cuda']}; "
        + ", ".join(f"{name} {version}" for name, version in made["packages"].items())
        + f". Input {report['size']}, 2x; random weights.",
        "",
    ]
    for row in report["presets"]:
        lines += [f"## {row['preset']}", "", *_said(row), "", "| | |", "| --- | ---: |", *_cells(row), ""]
        if on := row.get("graphs_on"):
            lines += [
                f"Calls a steady chunk: {on['calls_a_chunk']}; of CUDA's runtime by anyone: "
                f"{on['runtime_calls_a_chunk']}.",
                "",
            ]
    return "\n".join(lines) + "\n"


def _said(row: dict[str, Any]) -> list[str]:
    """What ran, and what failed, of one preset: a part that failed leaves the others as they are."""
    command = row.get("command")
    lines = []
    if command:
        words = " ".join(command["command"][2:])
        lines.append(f"`flashvsr-trt {words}`: status {command['status']}, {command['seconds']:.0f} s.")
    return [*lines, *(f"Failed: {part}: {reason}" for part, reason in row["failed"].items())]


def _cells(row: dict[str, Any]) -> list[str]:
    """The rows of a preset's table, as far as they were measured."""
    cells = [(name, "yes" if held else "NO") for name, held in row["checks"].items()]
    if "psnr_to_torch" in row:
        cells.append((f"frames compared with torch in {row['dtype']}", row["frames_compared"]))
        cells.append(("PSNR to it", f"{row['psnr_to_torch']:.1f} dB"))
    ms = row.get("ms_a_chunk", {})
    cells += [(f"{name}, ms a chunk", f"{value:.2f}") for name, value in ms.items()]
    for name, by_stage in row.get("stage_ms", {}).items():
        cells += [(f"{name}, {stage}", f"{value:.2f}") for stage, value in by_stage.items()]
    if ms:
        cells.append(("engines against torch", f"{ms['engines'] / ms['torch']:.2f}"))
    sizes = {
        "memory in the steady state": "steady_bytes",
        "memory by the estimate": "estimate_bytes",
        "torch's peak": "torch_peak_bytes",
    }
    cells += [(name, f"{row[key] / 2**30:.2f} GiB") for name, key in sizes.items() if row.get(key)]
    if "seconds_to_open" in row:
        cells.append(("seconds to open", f"{row['seconds_to_open']:.1f}"))
    return [f"| {name} | {value} |" for name, value in cells]


def write_report(report: dict[str, Any], folder: Path) -> None:
    """As JSON and as Markdown."""
    (folder / "engine_report.json").write_text(json.dumps(report, indent=1, default=str) + "\n")
    (folder / "engine_report.md").write_text(markdown(report))
