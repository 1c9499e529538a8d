"""`flashvsr-trt weights`: what it prints, and how it exits."""

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from flashvsr_trt.cli.weights import weights
from flashvsr_trt.config import presets
from flashvsr_trt.config.presets import NANO
from flashvsr_trt.errors import PresetError, WeightsError
from flashvsr_trt.model.weights import download as weights_download
from flashvsr_trt.model.weights.bundle import read_safetensors_metadata
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from flashvsr_trt.model.weights.published import FILES, REPOSITORY
from flashvsr_trt.model.weights.random import random_weights
from tests.model.weights_files import TINY, write_files

PRESET = ("--preset", "nano")


def run(*arguments, **options):
    return CliRunner().invoke(weights, [str(argument) for argument in arguments], **options)


@pytest.fixture
def directory(tmp_path):
    write_files(tmp_path / "files", NANO)
    return tmp_path / "files"


class TestCheck:
    def test_a_directory_that_loads(self, directory):
        result = run("check", directory, *PRESET)
        assert result.exit_code == 0
        lines = result.output.splitlines()
        assert [line.split("  ")[:3] for line in lines[:5]] == [
            ["part", "format", "tensors"],
            ["projector", "torch zip", "8"],
            ["dit", "safetensors", "123"],
            ["decoder", "torch zip", "66"],
            ["prompt", "torch zip", "1"],
        ]
        sizes = ("dim", "ffn_dim", "text_dim", "freq_dim", "layers")
        assert ", ".join(f"{size} {getattr(NANO.dit, size)}" for size in sizes) in lines[2]
        assert "bfloat16" in lines[1]
        assert lines[-1] == f"{directory}: loads as unpublished"

    def test_a_terminal_gets_a_table(self, directory):
        result = run("check", directory, *PRESET, env={"TTY_COMPATIBLE": "1", "COLUMNS": "200"})
        assert result.exit_code == 0
        assert "parameters" in result.output
        assert "│" in result.output

    def test_json_tells_the_same(self, directory):
        result = run("check", directory, *PRESET, "--json")
        report = json.loads(result.output)
        assert report["loads"] is True
        decoder = report["parts"][2]
        assert decoder["sizes"] == {"channels": list(NANO.decoder.channels)}
        assert decoder["difference"] == {"missing": [], "unexpected": [], "misshaped": []}
        assert len(decoder["sha256"]) == 64

    def test_missing_and_unexpected_keys_are_listed_and_fail(self, tmp_path):
        state = random_weights(NANO, 0)["projector"]
        state["linear_layers.1.bias"] = state.pop("conv1.bias")
        write_files(tmp_path, NANO, projector=state)
        result = run("check", tmp_path, *PRESET)
        assert result.exit_code == 1
        expected = "problem: projector: 1 missing: conv1.bias; 1 unexpected: linear_layers.1.bias"
        assert expected in result.output
        assert "would not load" in result.output
        report = json.loads(run("check", tmp_path, *PRESET, "--json").output)
        assert report["parts"][0]["difference"]["missing"] == ["conv1.bias"]

    def test_a_missing_file_still_reports_the_others(self, directory):
        (directory / FILES["dit"].name).unlink()
        result = run("check", directory, *PRESET)
        assert result.exit_code == 1
        assert f"lacks {FILES['dit'].name}" in result.output
        assert "decoder  torch zip  66" in result.output

    def test_a_damaged_file_still_reports_the_others(self, directory):
        (directory / FILES["dit"].name).write_bytes(b"")
        result = run("check", directory, *PRESET)
        assert result.exit_code == 1
        assert "is empty (0 bytes)" in result.output
        assert "dit  unreadable" in result.output

    def test_sizes_of_another_preset_fail(self, directory):
        result = run("check", directory)
        assert result.exit_code == 1
        found = f"dim is {NANO.dit.dim}, expected 1536, ffn_dim is {NANO.dit.ffn_dim}"
        assert f"dit: it is of another network, {found}" in result.output

    def test_files_of_the_published_sizes_and_another_checksum_fail(self, directory, monkeypatch):
        published = presets.Preset("nano", "", NANO, presets.PRESETS[3].attention)
        monkeypatch.setattr("flashvsr_trt.model.weights.published.PRESETS", (published,))
        result = run("check", directory, *PRESET)
        assert result.exit_code == 1
        assert "not every file is the published v1.1 one" in result.output

    @pytest.mark.parametrize("part", FILES)
    def test_one_of_the_files_alone(self, directory, part):
        result = run("check", directory / FILES[part].name, *PRESET)
        assert result.exit_code == 0
        assert result.output.splitlines()[1].startswith(part)

    def test_a_bundle_that_loads(self, directory, tmp_path):
        run("convert", directory, tmp_path / "w.safetensors", *PRESET)
        result = run("check", tmp_path / "w.safetensors", *PRESET)
        assert result.exit_code == 0
        assert "dit  bundle  123" in result.output

    def test_a_bundle_whose_contents_changed_fails(self, directory, tmp_path):
        bundle = tmp_path / "w.safetensors"
        run("convert", directory, bundle, *PRESET)
        metadata, tensors = read_safetensors_metadata(bundle), load_file(bundle)
        tensors["decoder.decoder.1.bias"] += 1
        save_file(tensors, bundle, metadata=metadata)
        result = run("check", bundle, *PRESET)
        assert result.exit_code == 1
        assert "contents of decoder have changed" in result.output

    def test_a_bundle_of_another_network_fails(self, directory, tmp_path):
        run("convert", directory, tmp_path / "w.safetensors", *PRESET)
        result = run("check", tmp_path / "w.safetensors")
        assert result.exit_code == 1
        assert f"dit.dim is {NANO.dit.dim}, expected 1536" in result.output

    def test_a_file_that_is_no_bundle_fails(self, tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        result = run("check", tmp_path / "x.safetensors")
        assert result.exit_code == 1
        assert "no weights bundle" in result.output

    def test_a_path_that_does_not_exist_is_an_error(self, tmp_path):
        result = run("check", tmp_path / "absent")
        assert isinstance(result.exception, WeightsError)

    def test_a_preset_that_does_not_exist_is_an_error(self, directory):
        assert isinstance(run("check", directory, "--preset", "nan").exception, PresetError)


class TestConvert:
    def test_the_bundle_loads_with_the_fingerprint_that_was_printed(self, directory, tmp_path):
        result = run("convert", directory, tmp_path / "w.safetensors", *PRESET)
        assert result.exit_code == 0
        found = load_weights(resolve_weights(str(tmp_path / "w.safetensors"), NANO), NANO)
        assert found.fingerprint in result.output

    def test_an_existing_file_is_replaced_only_when_told(self, directory, tmp_path):
        bundle = tmp_path / "w.safetensors"
        bundle.write_bytes(b"mine")
        assert "--overwrite" in str(run("convert", directory, bundle, *PRESET).exception)
        assert bundle.read_bytes() == b"mine"
        assert run("convert", directory, bundle, *PRESET, "--overwrite").exit_code == 0

    def test_files_of_another_network_are_refused(self, tmp_path):
        write_files(tmp_path / "tiny", TINY)
        result = run("convert", tmp_path / "tiny", tmp_path / "w.safetensors", *PRESET)
        assert isinstance(result.exception, WeightsError)
        assert not (tmp_path / "w.safetensors").exists()

    def test_the_prompt_can_lie_elsewhere(self, directory, tmp_path):
        (directory / FILES["prompt"].name).rename(tmp_path / "p.pth")
        arguments = ("convert", directory, tmp_path / "w.safetensors", *PRESET)
        assert run(*arguments, "--prompt", tmp_path / "p.pth").exit_code == 0


class TestPull:
    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            ((), (REPOSITORY, "main", None)),
            (("--revision", "abc", "--repo", "a/b"), ("a/b", "abc", None)),
        ],
    )
    def test_arguments_reach_the_download(self, monkeypatch, tmp_path, arguments, expected):
        asked = []
        monkeypatch.setattr(
            weights_download,
            "pull_weights",
            lambda repository, revision, directory, report: (
                asked.append((repository, revision, directory)) or tmp_path
            ),
        )
        result = run("pull", *arguments)
        assert result.exit_code == 0
        assert asked == [expected]
        assert f"use them with --weights {tmp_path}" in result.output

    def test_an_output_directory_reaches_the_download(self, monkeypatch, tmp_path):
        monkeypatch.setattr(weights_download, "pull_weights", lambda *arguments: arguments[2])
        assert str(tmp_path / "w") in run("pull", "-o", tmp_path / "w").output
