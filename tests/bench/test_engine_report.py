"""The report of engines on a GPU, gone through on a CPU: whole, with a part that fails, and ended midway."""

import json
import os
import random

import pytest
from click.testing import CliRunner

from bench import engine_parts, engine_report, wheel_parts
from bench.engine_tables import markdown

PRESET = "nano-full-attn"


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory):
    """Exit code, and the folder that a dry run wrote."""
    folder = tmp_path_factory.mktemp("report")
    cache = os.environ | {"FLASHVSR_CACHE": str(folder / "cache")}
    outcome = CliRunner().invoke(engine_report.main, ["--dry-run", "-o", str(folder)], env=cache)
    return outcome, folder


@pytest.mark.slow
@pytest.mark.skipif(
    "RUN_BENCH" not in os.environ, reason="a bench gone through takes long; RUN_BENCH=1 runs it"
)
def test_a_dry_run_goes_through_every_part(dry_run):
    outcome, folder = dry_run
    report = json.loads((folder / "engine_report.json").read_text())
    (row,) = report["presets"]
    assert row["failed"] == {}
    assert row["checks"]
    assert all(row["checks"].values()), row["checks"]
    assert outcome.exit_code == 0, outcome.output
    assert list(row["seconds"]) == [part.__name__ for part in engine_parts.PARTS]
    assert row["command"]["status"] == 0
    assert set(row["ms_a_chunk"]) == {"engines", "engines, graphs off", "torch"}
    assert row["graphs_on"]["graphs_captured"] > 0
    assert row["graphs_off"]["graphs_captured"] == 0
    assert 0 < row["steady_bytes"] <= row["estimate_bytes"]
    assert report["dry_run"]
    table = (folder / "engine_report.md").read_text()
    assert "| graphs on equal to graphs off | yes |" in table
    kept = json.loads((folder / f"engine_report.{PRESET}.json").read_text())
    assert kept == {name: value for name, value in row.items() if name != "command"}


class LostError(Exception):
    """What a part raises here."""


def test_a_part_that_fails_loses_no_other(monkeypatch, tmp_path):
    done = []

    def first(run):
        run.row["checks"]["held"] = True

    def second(run):
        raise LostError("the device fell off")

    def third(run):
        # What was measured before is on disk while a part runs.
        assert json.loads(run.path.read_text())["checks"] == {"held": True}
        done.append(run)

    monkeypatch.setattr(engine_parts, "PARTS", (first, second, third))
    path = tmp_path / "row.json"
    row = engine_parts.measure_preset(
        PRESET, (64, 64), "onnxruntime", "fp32", engine_report.DRY_EXTENT, None, None, path
    )
    assert len(done) == 1
    assert row["failed"] == {"second": "LostError: the device fell off"}
    assert not engine_report.holds(row)
    made = {"device": None, "driver": None, "cuda": None, "packages": {}}
    text = markdown({"environment": made, "flavour": "onnxruntime", "size": "64x64", "presets": [row]})
    assert "Failed: second: LostError: the device fell off" in text
    assert "| held | yes |" in text


def test_a_process_that_ends_midway_keeps_what_it_wrote(monkeypatch, tmp_path):
    path = tmp_path / "row.json"

    def ended(command, env, check):
        path.write_text(json.dumps({"preset": PRESET, "checks": {"held": True}, "failed": {}}))
        return engine_report.subprocess.CompletedProcess(command, -9)

    monkeypatch.setattr(engine_report.subprocess, "run", ended)
    row = engine_report.measure_apart(PRESET, "64x64", "onnxruntime", path, None, True)
    assert row["checks"] == {"held": True}
    assert row["failed"] == {"process": "it ended with status -9; see the log"}


def test_wheels_come_whole_out_of_their_parts(tmp_path):
    wheels, parts, there = (tmp_path / name for name in ("wheels", "parts", "there"))
    wheels.mkdir()
    sizes = {"large.whl": (5 << 20) + 3, "small.whl": 10, "other.whl": 1 << 20}
    contents = {name: random.Random(name).randbytes(size) for name, size in sizes.items()}
    for name, content in contents.items():
        (wheels / name).write_bytes(content)
    assert wheel_parts.main(["split", str(wheels), str(parts), "--megabytes", "2"]) is None
    folders = sorted(parts.iterdir())
    assert len(folders) > 3
    for folder in folders:
        assert sum(file.stat().st_size for file in folder.iterdir()) < (2 << 20) + 1000
    for folder in folders[:-1]:
        wheel_parts.main(["take", str(folder), str(there)])
    assert "not all pieces are here" in wheel_parts.main(["join", str(there)])
    wheel_parts.main(["take", str(folders[-1]), str(there)])
    assert wheel_parts.main(["join", str(there)]) is None
    for name, content in contents.items():
        assert (there / name).read_bytes() == content
