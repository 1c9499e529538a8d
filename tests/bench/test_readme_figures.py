"""The README's figures are those of the reports that they came from, and no table can go stale unseen."""

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from flashvsr_trt.cli.memory_table import INPUTS, Row, memory_rows
from flashvsr_trt.memory import GIB
from flashvsr_trt.model.weights.published import FILES
from flashvsr_trt.runtime.request import DIT_PRECISIONS
from tests.bench.test_engine_figures import FIGURES as ENGINES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "bench/results/h200"
PIPELINE = json.loads((RESULTS / "gpu_report.json").read_text(encoding="utf-8"))["pipeline"]
ACCURACY = json.loads((RESULTS / "gpu_report.json").read_text(encoding="utf-8"))["accuracy"]
SEVERAL = json.loads((RESULTS / "eight_gpus.json").read_text(encoding="utf-8"))["rows"]
SEVERAL_TABLE = (RESULTS / "eight_gpus.md").read_text(encoding="utf-8")

SPEED = "| one H200, random weights, bfloat16, 2x | ms a chunk of 8 frames | frames a second |"
PRECISIONS = "| one H100, random weights, 2x, ms a chunk | bfloat16 | `fp8` | `fp8-attention` | FPS |"
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


def test_precisions_are_those_of_their_report():
    report = json.loads((ROOT / "bench/results/h100/precisions.json").read_text(encoding="utf-8"))
    timings = {(row["scene"], row["precision"]): row for row in report["timings"] if row["cuda_graphs"]}
    rows = table_below(README, PRECISIONS)
    assert {scene for scene, _ in timings} == {row[0].partition(" to ")[0] for row in rows}
    for sizes, *shown, fps in rows:
        alike = [timings[sizes.partition(" to ")[0], precision] for precision in DIT_PRECISIONS]
        own, *others = [row["chunk_ms"] for row in alike]
        assert shown == [f"{own:.1f}", *(f"{other:.1f} ({other / own:.2f})" for other in others)]
        assert fps == f"{alike[-1]['fps']:.1f}"


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


@pytest.mark.parametrize(
    "row", SEVERAL, ids=lambda row: f"{row['preset']}-{row['size']}-{row['chunk']}-{row['ranks']}"
)
def test_the_table_of_several_gpus_is_the_report_s(row):
    alike = [x for x in SEVERAL if all(x[name] == row[name] for name in ("preset", "size", "chunk"))]
    of_one = next(x for x in alike if x["ranks"] == 1)
    shown = several(row["preset"], row["size"], row["chunk"])[row["ranks"]]
    assert shown["ms a chunk"] == f"{row['ms_per_chunk']:.1f}"
    assert shown["faster"] == f"{of_one['ms_per_chunk'] / row['ms_per_chunk']:.2f}"
    assert shown["FPS"] == f"{row['fps']:.2f}"
    assert shown["state a rank, MiB"] == f"{max(row['state_bytes_per_rank']) / 2**20:.0f}"
    assert shown["peak a rank, MiB"] == f"{max(row['peak_bytes_per_rank']) / 2**20:.0f}"
    assert shown["of one"] == f"{row['peak_of_one']:.2f}"


def several_gpus() -> list[str]:
    """How much faster 4 and 2 are, with both presets, and what of one's memory each takes."""
    full, sparse = several("full-attn", "1280x704", 8), several("sparse-2.0", "1280x704", 8)
    times = [f"{faster_than_one(rows, gpus):.1f}" for gpus in (4, 2) for rows in (full, sparse)]
    return [*times, sparse[4]["of one"], sparse[2]["of one"]]


def faster_than_one(rows: dict[int, dict[str, str]], gpus: int) -> float:
    """Of the milliseconds: what the table rounds is not rounded again."""
    return float(rows[1]["ms a chunk"]) / float(rows[gpus]["ms a chunk"])


def cell_of(row: Row) -> str:
    """A frame under a budget, as the README has it."""
    if row.total is None:
        return "does not fit"
    return f"{row.total:.1f}, " + (f"{row.tiles} of {row.tile}" if row.tile else "in one piece")


@cache
def estimates() -> list[Row]:
    """What doctor prints for the budgets of the README's table."""
    return memory_rows([8 * GIB, 12 * GIB, 24 * GIB])


def test_the_memory_table_is_what_doctor_prints():
    found = estimates()
    expected = []
    for name in INPUTS:
        rows = [row for row in found if row.output == name]
        expected.append([rows[0].input, name, f"{rows[0].in_one_piece:.1f}", *map(cell_of, rows)])
    assert table_below(README, MEMORY) == expected


def parts_of_the_limit() -> list[str]:
    """The least and the greatest of all sizes."""
    parts = [faster(plan["scene"])["of_limit"] for plan in PIPELINE["plans"]]
    return [f"{100 * min(parts):.0f}", f"{100 * max(parts):.0f}"]


def nano_beside_bicubic() -> list[str]:
    """dB gained on degraded clips, and lost on clean ones."""
    card = (ROOT / "model/weights/nano.md").read_text(encoding="utf-8")
    gains = dict(re.findall(r"^\| (clean|degraded) \|.*?\| ([+-][\d.]+) dB \|", card, re.MULTILINE))
    return [f"{abs(float(gains[kind])):.1f}" for kind in ("degraded", "clean")]


def megabytes_of_nano() -> list[str]:
    """Of its weights."""
    return [f"{(ROOT / 'model/weights/nano.safetensors').stat().st_size / 1e6:.0f}"]


N = r"([\d.]+)"
CLAIMS: dict[str, Callable[[], Sequence[str]]] = {
    f"{N} GB from Hugging Face": lambda: [f"{sum(file.size for file in FILES.values()) / 1e9:.1f}"],
    f"classes at {N} MB": megabytes_of_nano,
    f"it is {N} dB better than bicubic where they are degraded so, and {N} dB worse": nano_beside_bicubic,
    f"at {N} to {N} % of the speed": parts_of_the_limit,
    f"at least {N} dB from those in float32": lambda: [f"{ACCURACY['worst_psnr']:.1f}"],
    f"up to {N} GiB of it at 4K": lambda: [f"{max(row.host for row in estimates()):.0f}"],
    f"are {N} times as fast as one with `full-attn` and {N} times with `sparse-2.0` at 1280x704, 2x, two are "
    f"{N} and {N} times, with {N} and {N} of its memory": several_gpus,
    # A limit of CUDA's, and what nobody has made a report of: seen while the engines were built on a CPU.
    f"the {N} KB limit of shared memory.* forms that take {N} KB or less": lambda: ["48", "48"],
    f"`sparse-2.0` becomes 64 engines of {N} GB together, `full-attn` 4 of {N} GB; building takes about {N} "
    f"GB of memory for the one and {N} GB": lambda: ["6.0", "5.9", "5", "10"],
}
"""What the README says outside its tables -> the figures of what it came from."""

PROSE = " ".join(" ".join(line for line in README.splitlines() if line[:1] != "|").split())


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_figure_in_a_sentence_is_that_of_what_it_came_from(claim):
    said = re.search(claim, PROSE)
    assert said, "the README does not say this any more: what it says instead belongs into CLAIMS"
    assert list(said.groups()) == list(CLAIMS[claim]())


def test_every_figure_of_the_readme_is_held():
    """A number with a unit, in prose, is in one of CLAIMS; a table of figures has a test of its own."""
    held = [said.span() for claim in CLAIMS if (said := re.search(claim, PROSE))]
    figures = re.finditer(
        r"\d[\d.]* (?:(?:[KMGT]i?B|dB|ms|FPS|times|frames a second|of the time)\b|%)", PROSE
    )
    assert [f.group() for f in figures if not any(start <= f.start() < end for start, end in held)] == []
    lines = README.splitlines()
    tables = [above for above, below in pairwise(lines) if re.match(r"\|.*-: *\|", below)]
    assert set(tables) == {SPEED, PRECISIONS, MEMORY, ENGINES}
