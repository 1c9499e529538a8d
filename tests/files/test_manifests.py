"""Manifests are data: whatever one says, the answer is an error of ours, and nothing outside is touched."""

import contextlib
import json
import os
import random
import shutil

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashvsr_trt.bundle import MANIFEST, read_bundle
from flashvsr_trt.errors import BundleError, FlashVSRError
from flashvsr_trt.files.folder import BadFileError, BadNameError, check_names, describe_file
from flashvsr_trt.files.manifest_reader import MANIFEST_BYTES, BadManifestError, dump_manifest, parse_object
from flashvsr_trt.files.onnx_locations import external_locations
from flashvsr_trt.process_memory import peak_process_bytes
from tests.drawn_manifest import change_one_value

HOSTILE = [
    "../x",
    "..",
    ".",
    "",
    "/etc/passwd",
    "a/b",
    "a\\b",
    "C:x",
    "C:\\x",
    "a\0b",
    "x.",
    "nul",
    "CON.onnx",
    "\u202eonnx",
    "a" * 300,
    MANIFEST,
    MANIFEST.upper(),
]


def edit(folder, change):
    path = folder / MANIFEST
    content = json.loads(path.read_text())
    change(content)
    path.write_text(dump_manifest(content))


@pytest.fixture
def small(dense_bundle, tmp_path):
    """A copy of a bundle, whose weights are a hard link: nothing writes into them."""
    folder = tmp_path / "inside"
    shutil.copytree(dense_bundle.folder, folder, copy_function=os.link)
    content = (folder / MANIFEST).read_bytes()
    (folder / MANIFEST).unlink()
    (folder / MANIFEST).write_bytes(content)
    return folder


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_refused(name, small, tmp_path):
    edit(small, lambda content: content["graphs"]["dit"]["file"].update(name=name))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BundleError, match="is damaged"):
        read_bundle(small)
    assert sorted(tmp_path.rglob("*")) == before


def test_two_files_of_one_name_are_refused():
    with pytest.raises(BadNameError, match="two files"):
        check_names(["a.onnx", "A.onnx"])


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_a_link_is_refused(where, small, tmp_path):
    path = small / "dit.onnx"
    target = tmp_path / "outside.onnx" if where == "outside" else small / "other.onnx"
    path.rename(target)
    path.symlink_to(target)
    with pytest.raises(BundleError, match="link"):
        read_bundle(small)


def test_a_graph_that_keeps_tensors_elsewhere_is_refused(small):
    path = small / "decode.onnx"
    model = onnx.load(path, load_external_data=False)
    assert external_locations(path.read_bytes()) == {read_bundle(small).weights.file.name}
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../secret"
    path.unlink()
    onnx.save(model, path)
    edit(small, lambda content: content["graphs"]["decode"]["file"].update(vars(describe_file(path))))
    with pytest.raises(BundleError, match=r"keeps tensors in '\.\./secret'"):
        read_bundle(small)


@pytest.mark.parametrize(
    "change",
    [
        lambda stream: stream["preset"]["network"]["dit"].update(layers=10**9),
        lambda stream: stream["preset"]["network"]["dit"].update(heads=0),
        lambda stream: stream["preset"]["network"]["dit"].update(dim=2**62),
        lambda stream: stream["preset"]["network"]["dit"].update(text_tokens=2**62),
        lambda stream: stream["preset"]["network"]["decoder"].update(channels=[2**62] * 4),
        lambda stream: stream["preset"]["attention"].update(past_units=2**62),
        lambda stream: stream["preset"]["attention"].update(sparse_ratio=0),
        lambda stream: stream["geometry"].update(height=2**62),
        lambda stream: stream["geometry"].update(scale=0),
        lambda stream: stream["geometry"].update(width=True),
        lambda stream: stream["preset"].update(network=None),
        lambda stream: stream.update(schedule="none"),
        lambda stream: stream.update(more=1),
    ],
)
def test_sizes_are_bounded_by_the_files(change, small):
    edit(small, lambda content: change(content["stream"]))
    with pytest.raises(BundleError, match="is damaged"):
        read_bundle(small)


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 10**6,
        b'{"a":' * 1000 + b"1" + b"}" * 1000,
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": 1, "a": 2}',
        b"[]",
        b"\xff",
        b"",
    ],
)
def test_json_that_is_no_manifest_is_refused(raw):
    with pytest.raises(BadManifestError):
        parse_object(raw)


def test_a_huge_manifest_is_not_read(small):
    os.truncate(small / MANIFEST, 5 << 30)
    with pytest.raises(BundleError, match=f"{MANIFEST_BYTES:,} are the most"):
        read_bundle(small)


def test_every_byte_counts(small):
    drawn = random.Random(0)
    paths = sorted(path for path in small.iterdir() if path.suffix != ".safetensors")
    for path in paths:
        whole = path.read_bytes()
        for _ in range(8):
            place, bit = drawn.randrange(len(whole)), 1 << drawn.randrange(8)
            flipped = bytearray(whole)
            flipped[place] ^= bit
            path.unlink()
            path.write_bytes(flipped)
            with pytest.raises(BundleError):
                read_bundle(small)
            path.write_bytes(whole)
    read_bundle(small)


@settings(
    max_examples=100,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_drawn_manifest_raises_nothing_but_our_errors(small, data):
    original = (small / MANIFEST).read_text()
    content = json.loads(original)
    change_one_value(data, content)
    before = peak_process_bytes()
    (small / MANIFEST).write_text(dump_manifest(content), encoding="utf-8", errors="replace")
    try:
        read_bundle(small, verify=False)
    except FlashVSRError:
        pass
    finally:
        (small / MANIFEST).write_text(original)
    assert peak_process_bytes() - before < 1 << 30


@given(raw=st.binary(max_size=200))
def test_any_bytes_are_a_graph_or_an_error(raw):
    with contextlib.suppress(BadFileError):
        external_locations(raw)
