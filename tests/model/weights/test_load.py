"""Loading is strict: what does not fit is named, and what fits comes back bit for bit."""

import pickle
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from flashvsr_trt.config.presets import FLASHVSR, NANO
from flashvsr_trt.errors import UsageError, WeightsError
from flashvsr_trt.files.folder import sha256_of
from flashvsr_trt.model.state_shapes import FOLDED, PARTS, difference, state_shapes
from flashvsr_trt.model.weights import bundle as weights_bundle
from flashvsr_trt.model.weights import load as weights
from flashvsr_trt.model.weights import published
from flashvsr_trt.model.weights.load import (
    UNVERIFIED,
    BundleFile,
    RandomSeed,
    convert_weights,
    load_weights,
    resolve_weights,
)
from flashvsr_trt.model.weights.published import FILES, VERSION
from flashvsr_trt.model.weights.random import random_weights
from tests.golden import load_case
from tests.model.weights_files import NARROW, TINY, write_files


def load(directory, network=TINY, **options):
    return load_weights(resolve_weights(str(directory), network), network, **options)


def assert_same(found, expected):
    assert set(found) == set(expected)
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=0)


class TestShapes:
    """The tables come from the modules; the golden files hold the official keys."""

    @pytest.mark.parametrize(
        ("part", "case"),
        [
            ("projector", "projector_32x48"),
            ("decoder", "tcdecoder_32x32"),
            ("dit", "dit_stream_dense_16x24"),
        ],
    )
    def test_keys_and_shapes_are_the_official_ones(self, part, case):
        official = {key: tuple(x.shape) for key, x in load_case(case).under("weights.").items()}
        assert state_shapes(TINY)[part] == official

    def test_published_sizes_are_those_of_the_published_files(self):
        """8, 825 and 66 tensors; sizes in bytes of bf16, fp32 and bf16 files less their headers."""
        shapes = state_shapes(FLASHVSR)
        counts = {
            part: sum(torch.Size(shape).numel() for shape in keys.values()) for part, keys in shapes.items()
        }
        assert [len(shapes[part]) for part in PARTS] == [8, 825, 66, 1]
        for part, width in (("projector", 2), ("dit", 4), ("prompt", 2)):
            header = FILES[part].size - counts[part] * width
            assert 0 < header < 100_000


class TestFiles:
    def test_all_parts_come_back_as_stored(self, tmp_path):
        parts = write_files(tmp_path)
        found = load(tmp_path)
        assert_same(found.parts["dit"], parts["dit"])
        assert_same(found.parts["decoder"], parts["decoder"])
        assert_same(found.parts["projector"], {key: x.bfloat16() for key, x in parts["projector"].items()})
        torch.testing.assert_close(found.prompt, parts["prompt"]["prompt"], rtol=0, atol=0)
        assert str(tmp_path) in found.source

    def test_a_dtype_casts_all_but_what_is_folded_and_keeps_the_fingerprint(self, tmp_path):
        write_files(tmp_path)
        found = load(tmp_path, dtype=torch.float16)
        for part, stored in load(tmp_path).parts.items():
            dtypes = {key: x.dtype if part in FOLDED else torch.float16 for key, x in stored.items()}
            assert {key: x.dtype for key, x in found.parts[part].items()} == dtypes
        assert found.fingerprint == load(tmp_path).fingerprint

    @pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc/self/maps")
    def test_files_are_memory_mapped(self, tmp_path):
        """A tensor's storage lies in the file's map: no page of it is read before it is used."""
        write_files(tmp_path)
        found = load(tmp_path)
        lines = Path("/proc/self/maps").read_text().splitlines()
        maps = [line.split()[0].split("-") for line in lines if str(tmp_path) in line]
        ranges = [(int(start, 16), int(end, 16)) for start, end in maps]
        for tensors in (found.parts[part] for part in ("dit", "decoder", "projector")):
            address = next(iter(tensors.values())).data_ptr()
            assert any(start <= address < end for start, end in ranges)

    def test_another_byte_is_another_fingerprint(self, tmp_path):
        write_files(tmp_path / "a", seed=1)
        write_files(tmp_path / "b", seed=2)
        assert load(tmp_path / "a").fingerprint != load(tmp_path / "b").fingerprint

    def test_a_state_dict_in_a_wrapper_is_unwrapped(self, tmp_path):
        parts = write_files(tmp_path)
        torch.save({"state_dict": parts["decoder"], "epoch": 3}, tmp_path / FILES["decoder"].name)
        assert_same(load(tmp_path).parts["decoder"], parts["decoder"])

    def test_a_view_of_a_larger_storage_is_read_as_the_view(self, tmp_path):
        parts = write_files(tmp_path)
        name, tensor = "decoder.1.bias", parts["decoder"]["decoder.1.bias"]
        torch.save(
            parts["decoder"] | {name: torch.cat([torch.zeros(7), tensor])[7:]},
            tmp_path / FILES["decoder"].name,
        )
        assert_same(load(tmp_path).parts["decoder"], parts["decoder"])

    def test_the_old_torch_format_is_read_too(self, tmp_path):
        parts = write_files(tmp_path)
        torch.save(parts["decoder"], tmp_path / FILES["decoder"].name, _use_new_zipfile_serialization=False)
        assert_same(load(tmp_path).parts["decoder"], parts["decoder"])

    @pytest.mark.parametrize("part", ["projector", "dit", "decoder"])
    def test_a_missing_key_is_named(self, tmp_path, part):
        state = random_weights(TINY, 0)[part]
        dropped = list(state)[1]
        del state[dropped]
        write_files(tmp_path, **{part: state})
        with pytest.raises(
            WeightsError, match=f"{FILES[part].name} does not fit the {part}: 1 missing: {dropped}"
        ):
            load(tmp_path)

    def test_unexpected_and_misshaped_keys_are_named_and_counted(self, tmp_path):
        state = random_weights(TINY, 0)["decoder"]
        state |= {f"encoder.{i}.weight": torch.zeros(1) for i in range(5)}
        state["decoder.26.bias"] = torch.zeros(4)
        write_files(tmp_path, decoder=state)
        with pytest.raises(WeightsError) as caught:
            load(tmp_path)
        message = str(caught.value)
        assert "5 unexpected: encoder.0.weight, encoder.1.weight, encoder.2.weight, ..." in message
        assert "1 of another shape: decoder.26.bias is [4], expected [3]" in message

    def test_another_network_says_which_sizes_differ(self, tmp_path):
        write_files(tmp_path, NARROW)
        with pytest.raises(WeightsError, match=r"of another network, dim is 32, expected 64"):
            load(tmp_path)

    def test_a_prompt_of_another_shape_is_refused(self, tmp_path):
        write_files(tmp_path, prompt={"prompt": torch.zeros(1, 8, 47)})
        with pytest.raises(WeightsError, match=r"prompt is \[1, 8, 47\], expected \[1, 8, 48\]"):
            load(tmp_path)

    def test_quantised_tensors_are_refused(self, tmp_path):
        state = random_weights(TINY, 0)["decoder"]
        state["decoder.1.bias"] = state["decoder.1.bias"].to(torch.float8_e4m3fn)
        write_files(tmp_path, decoder=state)
        with pytest.raises(WeightsError, match=r"decoder.1.bias as float8_e4m3fn: quantised"):
            load(tmp_path)


class Trap:
    """Unpickling it would run code."""

    def __reduce__(self):
        return (print, ("ran",))


class TestDamagedFiles:
    @pytest.fixture(params=["projector", "dit", "decoder", "prompt"])
    def path(self, request, tmp_path):
        write_files(tmp_path)
        return tmp_path / FILES[request.param].name

    @pytest.mark.parametrize(
        ("contents", "said"),
        [
            (b"", r"is empty \(0 bytes\)"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer"),
            (b"<!DOCTYPE html><html>Not found", "neither safetensors nor a torch file"),
            (struct.pack("<Q", 1 << 40) + b"{", "damaged or incomplete"),
            (b"PK\x03\x04" + bytes(100), "damaged or incomplete"),
            (b"\x80\x02" + bytes(100), "damaged"),
        ],
    )
    def test_it_is_named_with_the_reason(self, path, contents, said):
        path.write_bytes(contents)
        with pytest.raises(WeightsError, match=said) as caught:
            load(path.parent)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_a_truncated_one_is_damaged(self, path):
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(WeightsError, match="damaged or incomplete"):
            load(path.parent)

    @pytest.mark.parametrize("contents", [Trap(), {"x": Trap()}])
    def test_code_in_a_pickle_does_not_run(self, path, contents, capfd):
        for write in (torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, protocol=2))):
            write(contents, path)
            with pytest.raises(WeightsError, match=r"more than tensors|damaged"):
                load(path.parent)
        assert "ran" not in capfd.readouterr().out

    @pytest.mark.parametrize("contents", [[1, 2], {"x": 3}, {"x": [torch.zeros(1)]}, {3: torch.zeros(1)}])
    def test_anything_but_tensors_is_refused(self, tmp_path, contents):
        write_files(tmp_path)
        torch.save(contents, tmp_path / FILES["decoder"].name)
        with pytest.raises(WeightsError, match=r"TCDecoder\.ckpt holds a"):
            load(tmp_path)


class TestVersions:
    @pytest.fixture
    def directory(self, tmp_path, monkeypatch):
        """Files of a network that counts as published, with the checksums that published.py names."""
        write_files(tmp_path)
        for module in (weights, published):
            monkeypatch.setattr(module, "is_published", lambda network: network == TINY)
        known = {
            part: published.PublishedFile(part, file.name, file.size, sha256_of(tmp_path / file.name))
            for part, file in FILES.items()
        }
        monkeypatch.setattr(weights, "FILES", known)
        return tmp_path

    def test_the_published_checksums_are_v1_1(self, directory):
        assert load(directory).version == VERSION

    @pytest.mark.parametrize("part", PARTS)
    def test_one_file_of_another_version_is_never_mixed_in(self, directory, tmp_path, part):
        write_files(tmp_path / "v1", seed=9)
        (tmp_path / "v1" / FILES[part].name).replace(directory / FILES[part].name)
        with pytest.raises(
            WeightsError, match=f"beside files that are: .*{FILES[part].name}; v1 has the same"
        ):
            load(directory)

    def test_a_whole_directory_of_another_version_is_refused(self, directory):
        write_files(directory, seed=9)
        with pytest.raises(WeightsError, match=r"not the published v1.1 checksum: .*LQ_proj_in.*TCDecoder"):
            load(directory)

    def test_own_files_can_be_folded_on_purpose_and_stay_marked(self, directory, tmp_path):
        write_files(directory, seed=9)
        bundle = tmp_path / "own.safetensors"
        convert_weights(str(directory), bundle, TINY, allow_unverified=True)
        found = load_weights(BundleFile(bundle), TINY)
        assert found.version == UNVERIFIED
        assert "unverified" in found.source


class TestBundle:
    @pytest.fixture
    def bundle(self, tmp_path):
        write_files(tmp_path / "files")
        convert_weights(str(tmp_path / "files"), tmp_path / "w.safetensors", TINY)
        return tmp_path / "w.safetensors"

    def test_it_holds_what_the_files_hold(self, bundle):
        files, folded = load(bundle.parent / "files"), load(bundle)
        for part in PARTS:
            assert_same(folded.parts[part], files.parts[part])
        assert folded.fingerprint == files.fingerprint
        assert set(bundle.parent.iterdir()) == {bundle, bundle.parent / "files"}

    def test_it_is_as_readable_as_any_new_file(self, bundle):
        other = bundle.with_name("other")
        other.touch()
        assert bundle.stat().st_mode == other.stat().st_mode

    def test_keys_say_their_part(self, bundle):
        keys = set(load_file(bundle))
        assert {"prompt", "dit.patch_embedding.weight", "projector.norm1.gamma"} <= keys
        assert "decoder.decoder.1.weight" in keys

    def test_random_weights_fold_too(self, tmp_path):
        path = tmp_path / "r.safetensors"
        convert_weights("random:5", path, TINY)
        assert load(path).fingerprint == load_weights(RandomSeed(5), TINY).fingerprint

    def test_an_existing_one_is_kept_unless_told(self, bundle):
        before = bundle.read_bytes()
        with pytest.raises(WeightsError, match="pass --overwrite"):
            convert_weights("random", bundle, TINY)
        assert bundle.read_bytes() == before
        convert_weights("random", bundle, TINY, overwrite=True)
        assert load(bundle).version == "random"

    def test_a_bundle_is_not_folded_into_itself(self, bundle):
        before = bundle.read_bytes()
        link = bundle.with_name("link.safetensors")
        link.symlink_to(bundle)
        for target in (bundle, link):
            with pytest.raises(UsageError, match="is the input"):
                convert_weights(str(bundle), target, TINY, overwrite=True)
        assert bundle.read_bytes() == before

    def test_a_failed_write_leaves_nothing_behind(self, bundle, monkeypatch):
        def fail(tensors, path, metadata):
            path.write_bytes(b"half")
            raise OSError("No space left on device")

        monkeypatch.setattr(weights_bundle, "save_file", fail)
        before = bundle.read_bytes()
        with pytest.raises(WeightsError, match="No space left"):
            convert_weights("random", bundle, TINY, overwrite=True)
        assert bundle.read_bytes() == before
        assert set(bundle.parent.iterdir()) == {bundle, bundle.parent / "files"}

    @pytest.mark.parametrize(
        ("name", "said"), [("w.bin", "end it in .safetensors"), ("no/w.safetensors", "create it")]
    )
    def test_a_target_that_cannot_be_written_is_refused_first(self, tmp_path, name, said):
        with pytest.raises(WeightsError, match=said):
            convert_weights("absent", tmp_path / name, TINY)

    def test_another_network_says_which_sizes_differ(self, bundle):
        with pytest.raises(
            WeightsError, match=rf"dit\.dim is 64, expected {NANO.dit.dim}.*choose its preset"
        ):
            load(bundle, NANO)

    @pytest.mark.parametrize("version", ["0", "2"])
    def test_another_format_version_is_refused(self, bundle, monkeypatch, version):
        monkeypatch.setattr(weights_bundle, "FORMAT_VERSION", version)
        with pytest.raises(
            WeightsError, match=f"bundle of format version 1, and this release reads {version}"
        ):
            load(bundle)

    def test_any_other_safetensors_file_is_no_bundle(self, tmp_path):
        save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
        with pytest.raises(WeightsError, match="no weights bundle"):
            load(tmp_path / "x.safetensors")

    def test_a_torch_file_is_no_bundle(self, tmp_path):
        torch.save({"x": torch.zeros(1)}, tmp_path / "x.pt")
        with pytest.raises(WeightsError, match="not a weights bundle"):
            load(tmp_path / "x.pt")

    def test_a_bundle_that_lost_a_tensor_names_it(self, bundle):
        metadata = weights_bundle.read_safetensors_metadata(bundle)
        tensors = {key: x for key, x in load_file(bundle).items() if key != "dit.head.head.bias"}
        save_file(tensors, bundle, metadata=metadata)
        with pytest.raises(WeightsError, match=r"the dit: 1 missing: head\.head\.bias"):
            load(bundle)


@given(
    found=st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 2), st.integers(1, 2))),
    expected=st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 2), st.integers(1, 2))),
)
def test_a_difference_is_empty_only_for_equal_tables(found, expected):
    result = difference(found, expected)
    assert bool(result) == (found != expected)
    assert set(result.missing) == set(expected) - set(found)
    assert set(result.unexpected) == set(found) - set(expected)
