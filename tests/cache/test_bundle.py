"""What decides whether an exported bundle is found again."""

import shutil
from dataclasses import replace

import pytest

from flashvsr_trt.cache import bundle as cached
from flashvsr_trt.cache.bundle import bundle_name, find_bundle
from flashvsr_trt.cache.folder import cache_folder
from flashvsr_trt.imported_sources import sources_digest, sources_of
from flashvsr_trt.model.weights.source import resolve_weights

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
