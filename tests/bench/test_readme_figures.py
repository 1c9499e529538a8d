"""The README's figures are those of the reports that they came from, and no table can go stale unseen."""

import json
import re
from pathlib import Path

import pytest

from flashvsr_trt.cli.memory_table import INPUTS, Row, memory_rows
from flashvsr_trt.memory import GIB

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "bench/results/h200"
PIPELINE = json.loads((RESULTS / "gpu_report.json").read_text(encoding="utf-8"))["pipeline"]
ACCURACY = json.loads((RESULTS / "gpu_report.json").read_text(encoding="utf-8"))["accuracy"]
SEVERAL = json.loads((RESULTS / "four_gpus.json").read_text(encoding="utf-8"))["rows"]
SEVERAL_TABLE = (RESULTS / "four_gpus.md").read_text(encoding="utf-8")

SPEED = "| one H200, random weights, bfloat16, 2x | ms a chunk of 8 frames | frames a second |"
MEMORY = "| input | output | in one piece | 8 GiB | 12 GiB | 24 GiB |"


def table_below(text: str, heading: str) -> list[list[str]]:
    """The cells of a table's rows."""
    lines = text.splitlines()
    start = lines.index(heading) + 2
    end = next(place for place, line in enumerate([*lines, ""][start:], start) if line[:1] != "|")
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:end]]


def faster(scene: str) -> dict:
    """The better of CUDA graphs on and off, as bench/NOTES.md has it."""
    return min((row for row in PIPELINE["timings"] if row["scene"] == scene), key=lambda row: row["chunk_ms"])


def test_speeds_are_those_of_the_gpu_report():
    targets = {plan["scene"]: plan["target"] for plan in PIPELINE["plans"]}
    for sizes, milliseconds, fps in table_below(README, SPEED):
        scene, _, target = sizes.partition(" to ")
        row = faster(scene)
        assert target == targets[scene]
        assert (milliseconds, fps) == (f"{row['chunk_ms']:.1f}", f"{row['fps']:#.3g}".rstrip(".")), scene


def test_the_part_of_the_limit_and_the_worst_psnr_are_the_report_s():
    parts = [faster(plan["scene"])["of_limit"] for plan in PIPELINE["plans"]]
    assert f"at {100 * min(parts):.0f} to {100 * max(parts):.0f} % of the speed" in README
    assert f"at least {ACCURACY['worst_psnr']:.1f} dB from those in float32" in README


def several(preset: str, size: str, chunk: int) -> dict[int, dict[str, str]]:
    """GPUs -> a row of the table of several GPUs."""
    heading = next(line for line in SEVERAL_TABLE.splitlines() if line.startswith("| preset | LR frame |"))
    names = [cell.strip() for cell in heading.strip("|").split("|")]
    rows = [dict(zip(names, cells, strict=True)) for cells in table_below(SEVERAL_TABLE, heading)]
    wanted = (preset, size, str(chunk))
    return {
        int(row["GPUs"]): {name: cell.strip("*") for name, cell in row.items()}
        for row in rows
        if (row["preset"], row["LR frame"], row["frames a chunk"]) == wanted
    }


@pytest.mark.parametrize("row", SEVERAL, ids=lambda row: f"{row['size']}-{row['chunk']}-{row['ranks']}")
def test_the_table_of_several_gpus_is_the_report_s(row):
    of_one = next(x for x in SEVERAL if (x["size"], x["chunk"], x["ranks"]) == (row["size"], row["chunk"], 1))
    shown = several(row["preset"], row["size"], row["chunk"])[row["ranks"]]
    assert shown["ms a chunk"] == f"{row['ms_per_chunk']:.1f}"
    assert shown["faster"] == f"{of_one['ms_per_chunk'] / row['ms_per_chunk']:.2f}"
    assert shown["FPS"] == f"{row['fps']:.2f}"
    assert shown["state a rank, MiB"] == f"{max(row['state_bytes_per_rank']) / 2**20:.0f}"
    assert shown["peak a rank, MiB"] == f"{max(row['peak_bytes_per_rank']) / 2**20:.0f}"
    assert shown["of one"] == f"{row['peak_of_one']:.2f}"


def test_what_the_readme_says_of_several_gpus_is_in_that_table():
    text = " ".join(README.split())
    said = re.search(
        r"are ([\d.]+) times as fast as one with `full-attn` and ([\d.]+) times with `sparse-2.0` at "
        r"1280x704, 2x, two are ([\d.]+) and ([\d.]+) times, with ([\d.]+) and ([\d.]+) of its memory",
        text,
    )
    full, sparse = several("full-attn", "1280x704", 8), several("sparse-2.0", "1280x704", 8)
    times = [f"{faster_than_one(rows, gpus):.1f}" for gpus in (4, 2) for rows in (full, sparse)]
    assert list(said.groups()) == [*times, sparse[4]["of one"], sparse[2]["of one"]]


def faster_than_one(rows: dict[int, dict[str, str]], gpus: int) -> float:
    """Of the milliseconds: what the table rounds is not rounded again."""
    return float(rows[1]["ms a chunk"]) / float(rows[gpus]["ms a chunk"])


def cell_of(row: Row) -> str:
    """A frame under a budget, as the README has it."""
    if row.total is None:
        return "does not fit"
    return f"{row.total:.1f}, " + (f"{row.tiles} of {row.tile}" if row.tile else "in one piece")


def test_the_memory_table_is_what_doctor_prints():
    found = memory_rows([8 * GIB, 12 * GIB, 24 * GIB])
    expected = []
    for name in INPUTS:
        rows = [row for row in found if row.output == name]
        expected.append([rows[0].input, name, f"{rows[0].in_one_piece:.1f}", *map(cell_of, rows)])
    assert table_below(README, MEMORY) == expected
