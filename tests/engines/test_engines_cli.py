"""`flashvsr-trt engines` in this process."""

import json
import re
import shutil

import pytest

from tests.cli.command import call
from tests.engines.conftest import FIRST_BUILD, SMALLEST, SPARSE


@pytest.fixture
def folder(engines_of, tmp_path):
    """A folder with one set of engines, as its own."""
    root = tmp_path / "engines"
    shutil.copytree(engines_of(SMALLEST).folder, root / engines_of(SMALLEST).folder.name)
    return root


def test_a_bundle_that_was_built_is_found(engines_of, bundle_of, engines_root, capfd):
    folder = engines_of(SMALLEST).folder
    outcome = call(
        capfd,
        *("engines", "build", "--bundle", bundle_of(SMALLEST).folder, "--engines", engines_root),
        *("--flavour", "rtx", "--device-arch", "8.9"),
    )
    assert (outcome.code, outcome.out.strip(), outcome.err) == (0, str(folder), "")


@pytest.mark.slow
def test_a_stream_is_exported_and_built_once(first_build, first_cache, monkeypatch, capfd):
    assert first_build.code == 0, first_build.err
    assert "exporting nano-full-attn" in first_build.err
    assert "building for compute capability" in first_build.err
    # Lines come by time, but for the first and the last.
    assert re.search(r"building engines: 0 of ([\d,]+) nodes, encode, 1 of 4\n", first_build.err)
    assert re.search(r"building engines: ([\d,]+) of \1 nodes\n", first_build.err)
    assert first_build.out.count("\n") == 1
    monkeypatch.setenv("FLASHVSR_CACHE", str(first_cache))
    again = call(capfd, *FIRST_BUILD)
    assert again.out == first_build.out
    assert "exporting" not in again.err
    assert "decode" not in again.err


def test_list_and_show(folder, engines_of, capfd):
    name = engines_of(SMALLEST).folder.name
    listed = call(capfd, "engines", "list", "--engines", folder)
    assert listed.out.startswith(name)
    (row,) = json.loads(call(capfd, "engines", "list", "--engines", folder, "--json").out)
    assert (row["name"], row["size"], row["capability"]) == (name, "256x128", "8.9")
    shown = call(capfd, "engines", "show", name, "--engines", folder)
    assert "dit: 1 engines, 0 kernels" in shown.out
    facts = json.loads(call(capfd, "engines", "show", folder / name, "--json").out)
    assert [row["engine"] for row in facts["engines"]] == ["encode", "dit", "decode"]


def test_show_of_nothing_says_where_to_look(folder, capfd):
    outcome = call(capfd, "engines", "show", "absent", "--engines", folder)
    assert outcome.code == 2
    assert "engines list" in outcome.err


def test_verify_says_what_this_machine_cannot_tell(folder, capfd, monkeypatch):
    monkeypatch.setattr("flashvsr_trt.engines.device.current_device", lambda: None)
    outcome = call(capfd, "engines", "verify", "--engines", folder)
    assert outcome.code == 0
    words = [line.split()[:2] for line in outcome.out.splitlines()]
    assert words == [
        ["ok", "files"],
        ["ok", "bundle"],
        ["ok", "bindings"],
        ["ok", "sessions"],
        ["ok", "fresh"],
        ["unknown", "deserialise"],
    ]


def test_verify_fails_on_a_damaged_engine(folder, engines_of, capfd):
    path = folder / engines_of(SMALLEST).folder.name / "decode.engine"
    path.write_bytes(path.read_bytes()[:100])
    outcome = call(capfd, "engines", "verify", "--engines", folder)
    assert outcome.code == 1
    assert "FAILED" in outcome.out
    assert "truncated" in outcome.out
    assert outcome.err.startswith("error: 1 of 1 checks failed")
    assert "damaged" in call(capfd, "engines", "list", "--engines", folder).out


def test_prune_removes_what_is_out_of_use_only(folder, engines_of, capfd):
    name = engines_of(SMALLEST).folder.name
    damaged = shutil.copytree(folder / name, folder / f"{name[:-4]}0000")
    (damaged / "dit.engine").unlink()
    aside = shutil.copytree(folder / name, folder / f"{name}.damaged-{0:012x}-{0:08x}")
    anothers = shutil.copytree(folder / name, folder / "anothers")
    no_manifest = folder / f"{name[:-4]}1111"
    no_manifest.mkdir()
    outcome = call(capfd, "engines", "prune", "--engines", folder, "--dry-run")
    assert "2 to remove, 1 kept" in outcome.out
    assert damaged.exists()
    outcome = call(capfd, "engines", "prune", "--engines", folder)
    assert "2 removed, 1 kept" in outcome.out
    assert not aside.exists()
    left = {path.name for path in folder.iterdir() if path.name != ".locks"}
    assert left == {name, anothers.name, no_manifest.name}
    assert "1 removed, 0 kept" in call(capfd, "engines", "prune", "--engines", folder, "--all").out


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--flavour", "rtx", "--device-arch", "9.0"), 1, "use --flavour tensorrt"),
        (("--flavour", "other"), 2, "auto, rtx, tensorrt"),
        (("--device-arch", "8.9", "--optimization-level", "9"), 2, "0<=x<=5"),
        (("--device-arch", "8.9", "--size", "250x128"), 2, "nearest is 256x128"),
    ],
)
def test_bad_options_are_one_line(arguments, code, message, capfd, tmp_path, rtx_target):
    outcome = call(capfd, "engines", "build", *arguments, "--engines", tmp_path / "engines")
    assert outcome.code == code
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "engines").exists()


@pytest.mark.parametrize(
    ("preset", "arch", "precision", "message"),
    [
        ("nano", "12.1", "bf16", "not sm_121; the full-attn presets need none"),
        ("nano", "8.9", "fp32", "not fp32; export with --precision bf16"),
    ],
)
def test_a_sparse_preset_without_kernels_is_refused_before_anything_is_built(
    preset, arch, precision, message, capfd, tmp_path, sparse_bundle, bundle_of, rtx_target
):
    bundle = sparse_bundle if precision == "fp32" else bundle_of(SPARSE)
    outcome = call(
        capfd,
        *("engines", "build", "--bundle", bundle.folder, "--flavour", "rtx", "--device-arch", arch),
        *("--engines", tmp_path / "engines"),
    )
    assert outcome.code == 1
    assert message in outcome.err
    assert not (tmp_path / "engines").exists()
