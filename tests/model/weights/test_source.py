"""Where weights are looked for, and what the error says when they are not there."""

import pytest

from flashvsr_trt.config.presets import FLASHVSR, NANO, PRESETS
from flashvsr_trt.errors import WeightsError
from flashvsr_trt.model.state_shapes import PARTS
from flashvsr_trt.model.weights import source as weights_source
from flashvsr_trt.model.weights.load import BundleFile, PublishedFiles, RandomSeed, describe, resolve_weights
from flashvsr_trt.model.weights.published import FILES, NETWORK_FILES, is_published
from flashvsr_trt.model.weights.source import packaged_weights
from tests.model.weights_files import TINY, write_files


@pytest.fixture(autouse=True)
def empty_surroundings(monkeypatch, tmp_path):
    monkeypatch.delenv("FLASHVSR_WEIGHTS", raising=False)
    monkeypatch.delenv("FLASHVSR_PROMPT", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(weights_source, "try_to_load_from_cache", lambda repository, name: None)


def test_every_part_has_a_published_file():
    assert set(FILES) == set(PARTS)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_a_network_is_published_where_its_preset_says_so(preset):
    assert is_published(preset.network) == preset.published


@pytest.mark.parametrize(("spec", "seed"), [("random", 0), ("random:0", 0), ("random:71", 71)])
@pytest.mark.parametrize("network", [FLASHVSR, NANO])
def test_random_and_its_seed(spec, seed, network):
    assert resolve_weights(spec, network) == RandomSeed(seed)


@pytest.mark.parametrize("spec", ["random:x", "random:-1", "random:1.5"])
def test_a_seed_that_is_no_number_is_named(spec):
    with pytest.raises(WeightsError, match="whole number"):
        resolve_weights(spec, NANO)


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset.packaged_weights])
def test_a_network_with_packaged_weights_runs_on_them_whatever_the_environment_holds(
    preset, monkeypatch, tmp_path
):
    monkeypatch.setenv("FLASHVSR_WEIGHTS", str(tmp_path))
    found = resolve_weights(None, preset.network)
    assert found == BundleFile(packaged_weights(preset.network), packaged=True)
    assert found.path.name == preset.packaged_weights
    assert f"the package's own weights ({found.path})" in describe(found)


def test_the_option_goes_before_packaged_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"x")
    assert resolve_weights(str(path), NANO) == BundleFile(path)
    assert resolve_weights("random", NANO) == RandomSeed(0)


def test_a_package_without_its_weights_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(weights_source, "__file__", str(tmp_path / "weights_source.py"))
    with pytest.raises(WeightsError, match=r"lacks its own .*nano\.safetensors: install it again"):
        resolve_weights(None, NANO)


def test_a_network_without_weights_anywhere_runs_on_seed_0(monkeypatch, tmp_path):
    monkeypatch.setenv("FLASHVSR_WEIGHTS", str(tmp_path))
    assert resolve_weights(None, TINY) == RandomSeed(0)
    assert "random weights (seed 0)" in describe(RandomSeed(0))


@pytest.mark.parametrize("by_environment", [False, True])
def test_a_directory_gives_the_four_files(tmp_path, monkeypatch, by_environment):
    write_files(tmp_path / "v1.1")
    spec = str(tmp_path / "v1.1")
    if by_environment:
        monkeypatch.setenv("FLASHVSR_WEIGHTS", spec)
    found = resolve_weights(None if by_environment else spec, FLASHVSR)
    assert found == PublishedFiles(**{part: tmp_path / "v1.1" / file.name for part, file in FILES.items()})
    assert str(tmp_path / "v1.1") in describe(found)


def test_the_option_goes_before_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHVSR_WEIGHTS", str(tmp_path / "absent"))
    assert resolve_weights("random:4", FLASHVSR) == RandomSeed(4)


def test_a_file_is_a_bundle(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"x")
    assert resolve_weights(str(path), FLASHVSR) == BundleFile(path)


def test_one_of_the_published_files_asks_for_its_directory(tmp_path):
    write_files(tmp_path)
    with pytest.raises(WeightsError, match=f"give their directory, {tmp_path}"):
        resolve_weights(str(tmp_path / FILES["dit"].name), FLASHVSR)


def test_a_path_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"absent: it does not exist; run `flashvsr-trt weights pull`"):
        resolve_weights(str(tmp_path / "absent"), FLASHVSR)


@pytest.mark.parametrize("file", NETWORK_FILES, ids=lambda file: file.part)
def test_a_missing_file_is_named_with_the_command_that_fetches_it(tmp_path, file):
    write_files(tmp_path)
    (tmp_path / file.name).unlink()
    with pytest.raises(
        WeightsError, match=f"lacks {file.name}: run `flashvsr-trt weights pull -o {tmp_path}`"
    ):
        resolve_weights(str(tmp_path), FLASHVSR)


def test_nothing_anywhere_says_what_was_tried_and_what_to_do():
    with pytest.raises(WeightsError) as caught:
        resolve_weights(None, FLASHVSR)
    message = str(caught.value)
    for said in (
        "--weights is not given",
        "FLASHVSR_WEIGHTS is not set",
        "Hugging Face cache",
        "weights pull",
    ):
        assert said in message
    assert "--weights random" in message
    assert "\n" not in message


def test_the_hugging_face_cache_is_used_with_the_pulled_prompt(tmp_path, monkeypatch):
    snapshot = tmp_path / "snapshot"
    write_files(snapshot)
    (snapshot / "posi_prompt.pth").unlink()
    prompt = weights_source.prompt_cache()
    prompt.parent.mkdir(parents=True)
    prompt.write_bytes(b"prompt")
    monkeypatch.setattr(weights_source, "try_to_load_from_cache", lambda _, name: str(snapshot / name))
    found = resolve_weights(None, FLASHVSR)
    assert found.dit == snapshot / FILES["dit"].name
    assert found.prompt == prompt


class TestPrompt:
    @pytest.fixture
    def directory(self, tmp_path):
        write_files(tmp_path / "WanVSR" / "FlashVSR-v1.1")
        return tmp_path / "WanVSR" / "FlashVSR-v1.1"

    def test_the_official_checkout_keeps_it_in_a_sibling(self, directory):
        sibling = directory.parent / "prompt_tensor"
        sibling.mkdir()
        (directory / "posi_prompt.pth").rename(sibling / "posi_prompt.pth")
        assert resolve_weights(str(directory), TINY).prompt == sibling / "posi_prompt.pth"

    def test_the_environment_and_then_the_argument_override(self, directory, monkeypatch, tmp_path):
        for name in ("from_environment.pth", "from_argument.pth"):
            (tmp_path / name).write_bytes(b"prompt")
        monkeypatch.setenv("FLASHVSR_PROMPT", str(tmp_path / "from_environment.pth"))
        assert resolve_weights(str(directory), TINY).prompt == tmp_path / "from_environment.pth"
        argument = tmp_path / "from_argument.pth"
        assert resolve_weights(str(directory), TINY, prompt=argument).prompt == argument

    def test_an_override_that_does_not_exist_is_not_ignored(self, directory, tmp_path):
        with pytest.raises(WeightsError, match=r"absent\.pth does not exist"):
            resolve_weights(str(directory), TINY, prompt=tmp_path / "absent.pth")

    def test_a_missing_one_says_where_it_is_published(self, directory):
        (directory / "posi_prompt.pth").unlink()
        with pytest.raises(WeightsError, match=r"no prompt: .* do not exist; .*OpenImagingLab/FlashVSR.*"):
            resolve_weights(str(directory), TINY)
