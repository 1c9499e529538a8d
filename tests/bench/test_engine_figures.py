"""README "Engines" has the figures of the last H100 report of bench.engine_report, and claims no more."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
REPORT = json.loads((ROOT / "bench/results/h100/engine_report.json").read_text(encoding="utf-8"))
LINES = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

FIGURES = "| an H100, 640x384 to 1280x768 | dB from torch | ms a chunk | torch's | what failed |"
RAN = "| flavour | architecture | built | loaded | run | timed |"


def table_below(heading):
    """The rows of a table, as the README writes them."""
    start = LINES.index(heading) + 2
    return LINES[start : start + [*(line[:1] == "|" for line in LINES[start:]), False].index(False)]


def figures_of(row):
    """A preset's row of figures."""
    milliseconds = row["ms_a_chunk"]
    failed = [name for name, passed in row["checks"].items() if not passed] + list(row.get("failed", ()))
    return (
        f"| `{row['preset']}`, {row['dtype']} | {row['psnr_to_torch']:.1f} | {milliseconds['engines']:.1f} | "
        f"{milliseconds['torch']:.1f} | {'; '.join(failed) or 'nothing'} |"
    )


def test_the_figures_are_those_of_the_report():
    timed = [row for row in REPORT["presets"] if "ms_a_chunk" in row]
    assert table_below(FIGURES) == [figures_of(row) for row in timed]


def test_what_ran_on_the_h100_is_what_the_report_says_ran():
    claimed = {}
    for line in table_below(RAN):
        flavour, where, *done = (cell.strip() for cell in line.strip("|").split("|"))
        if flavour == f"`{REPORT['flavour']}`" and "H100" in where:
            claimed[where.split("`")[1]] = [cell.startswith(("yes", "[yes]")) for cell in done]
    for row in REPORT["presets"]:
        ran = row["command"]["status"] == 0
        assert claimed[row["preset"]] == [ran, "graphs_on" in row, ran, "ms_a_chunk" in row]
    others = claimed.keys() - {row["preset"] for row in REPORT["presets"]}
    assert not any(timed for _, _, _, timed in (claimed[name] for name in others))
