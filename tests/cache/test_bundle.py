"""What decides whether an exported bundle is found again."""

import hashlib
import os
import shutil
from dataclasses import replace

import pytest

from flashvsr_trt.cache import bundle as cached
from flashvsr_trt.cache.bundle import bundle_name, find_bundle
from flashvsr_trt.cache.folder import cache_folder
from flashvsr_trt.errors import WeightsError
from flashvsr_trt.files import folder
from flashvsr_trt.files.folder import REMEMBERED_BYTES
from flashvsr_trt.imported_sources import sources_digest, sources_of
from flashvsr_trt.model.weights.source import BundleFile, resolve_weights

WEIGHTS = "random:1"


@pytest.fixture
def stream(dense_bundle, tmp_path, monkeypatch):
    """Of the one bundle of a cache."""
    monkeypatch.setenv("FLASHVSR_CACHE", str(tmp_path))
    stream = dense_bundle.stream
    source = resolve_weights(WEIGHTS, stream.preset.network)
    shutil.copytree(dense_bundle.folder, cache_folder("bundles") / bundle_name(stream, source, "fp32"))
    return stream


def test_the_same_request_finds_the_bundle(stream, dense_bundle):
    assert find_bundle(stream, WEIGHTS, "fp32").graphs == dense_bundle.graphs


@pytest.mark.parametrize("change", ["exporter", "weights", "precision", "stream"])
def test_what_would_make_a_bundle_wrong_misses(change, stream, monkeypatch):
    weights, precision = WEIGHTS, "fp32"
    match change:
        case "exporter":
            monkeypatch.setattr(cached, "sources_digest", lambda module: "other source")
        case "weights":
            weights = "random:2"
        case "precision":
            precision = "fp16"
        case "stream":
            stream = replace(stream, color_fix="none")
    assert find_bundle(stream, weights, precision) is None


@pytest.fixture
def kept(stream, dense_bundle, tmp_path):
    """A weights file that the cache has a bundle of, of a size that is remembered."""
    path = tmp_path / "here" / "weights.safetensors"
    path.parent.mkdir()
    path.write_bytes(bytes(REMEMBERED_BYTES))
    name = bundle_name(stream, BundleFile(path), "fp32")
    shutil.copytree(dense_bundle.folder, cache_folder("bundles") / name)
    return path


def test_a_copy_of_the_weights_elsewhere_finds_the_bundle(kept, stream, tmp_path):
    copy = shutil.copyfile(kept, tmp_path / "copy.safetensors")
    assert find_bundle(stream, str(copy), "fp32")


def test_other_weights_of_the_same_size_and_time_miss(kept, stream):
    os.utime(kept, (1e9, 1e9))
    assert find_bundle(stream, str(kept), "fp32")
    with kept.open("r+b") as file:
        file.seek(REMEMBERED_BYTES // 2)
        file.write(b"1")
    os.utime(kept, (1e9, 1e9))
    assert find_bundle(stream, str(kept), "fp32") is None


def test_weights_are_read_once_and_only_where_a_bundle_could_be_theirs(kept, stream, monkeypatch):
    os.utime(kept, (1e9, 1e9))
    read = []
    whole = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: read.append(file) or whole(file, name))
    assert find_bundle(stream, str(kept), "fp16") is None
    assert not read
    for _ in range(3):
        assert find_bundle(stream, str(kept), "fp32")
        folder._TOLD.clear()  # as another process
    assert len(read) == 1


def test_weights_that_cannot_be_read_are_said(kept, stream):
    with pytest.raises(WeightsError, match="cannot be read"):
        bundle_name(stream, BundleFile(kept.with_name("gone")), "fp32")


def test_every_source_of_the_exporter_is_in_the_key(stream, monkeypatch):
    asked = []
    monkeypatch.setattr(
        cached, "sources_digest", lambda module: asked.append(module) or sources_digest(module)
    )
    assert find_bundle(stream, WEIGHTS, "fp32")
    found = {f"{path.parent.name}/{path.name}" for module in asked for path in sources_of(module)}
    assert found >= {
        "config/signatures.py",
        "export/export_bundle.py",
        "export/graph_passes.py",
        "export/stage_graphs.py",
        "model/decoder_range.py",
        "model/exported_decoder.py",
        "model/fused_projector.py",
        "model/running_dit.py",
        "model/stages.py",
        "plugins/select_blocks_function.py",
        "weights/load.py",
        "weights/random.py",
    }
