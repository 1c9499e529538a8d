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
        lines += [f"## {row['preset']}", ""]
        command = row["command"]
        if command:
            lines.append(
                f"`flashvsr-trt {' '.join(command['command'][2:])}`: status {command['status']}, "
                f"{command['seconds']:.0f} s."
            )
        if "error" in row:
            lines += ["", f"Failed: {row['error']}", ""]
            continue
        ms = row["ms_a_chunk"]
        on, memory = row["graphs_on"], row["memory"]
        lines += [
            "",
            "| | |",
            "| --- | ---: |",
            *(f"| {name} | {'yes' if held else 'NO'} |" for name, held in row["checks"].items()),
            f"| frames compared with torch in {row['dtype']} | {row['frames_compared']} |",
            f"| PSNR to it | {row['psnr_to_torch']:.1f} dB |",
            *(f"| {name}, ms a chunk | {value:.2f} |" for name, value in ms.items()),
            *(
                f"| {name}, {stage} | {value:.2f} |"
                for name, by_stage in row["stage_ms"].items()
                for stage, value in by_stage.items()
            ),
            f"| engines against torch | {ms['engines'] / ms['torch']:.2f} |",
            f"| memory in the steady state | {memory['steady'] / 2**30:.2f} GiB |",
            f"| memory by the estimate | {memory['estimate'] / 2**30:.2f} GiB |",
            f"| torch's peak | {row['torch_peak_bytes'] / 2**30:.2f} GiB |",
            f"| seconds to open | {memory['seconds_to_open']:.1f} |",
            "",
            f"Calls a steady chunk: {on['calls_a_chunk']}; of CUDA's runtime by anyone: "
            f"{on['runtime_calls_a_chunk']}.",
            "",
        ]
    return "\n".join(lines) + "\n"


def write_report(report: dict[str, Any], folder: Path) -> None:
    """As JSON and as Markdown."""
    (folder / "engine_report.json").write_text(json.dumps(report, indent=1, default=str) + "\n")
    (folder / "engine_report.md").write_text(markdown(report))
