"""Bundles on disk: shared weights, and everything that makes one unusable or impossible to write."""

import json
import shutil

import numpy as np
import onnx
import onnx_ir as ir
import psutil
import pytest
from onnx import TensorProto, helper
from safetensors.numpy import load_file

from flashvsr_trt.bundle import MANIFEST, read_bundle
from flashvsr_trt.errors import BundleError, UsageError
from flashvsr_trt.export import export_bundle as exporting
from flashvsr_trt.export.export_bundle import export_bundle, export_network
from flashvsr_trt.export.inspect_graph import inspect_file
from flashvsr_trt.export.weights_file import data_offsets
from flashvsr_trt.files.manifest_reader import dump_manifest
from tests.cli.command import assert_refused, call
from tests.exported import ignore, network_for


@pytest.fixture
def copied(dense_bundle, tmp_path):
    """A copy of a bundle, to be damaged."""
    return shutil.copytree(dense_bundle.folder, tmp_path / "copied")


def graph_of_one_weight(network):
    """Stands for a traced graph where only writing is tested."""
    weight = network.dit.blocks[0].ffn[0].weight.detach()
    value = ir.Value(name="weight", const_value=ir.tensor(weight))
    return ir.Model(ir.Graph([], [], nodes=[], initializers=[value]), ir_version=10)


def edit_manifest(folder, **changes):
    path = folder / MANIFEST
    path.write_text(dump_manifest(json.loads(path.read_text()) | changes))


def test_a_bundle_reads_back_as_it_was_made(sparse_bundle):
    assert read_bundle(sparse_bundle.folder) == sparse_bundle


def test_the_manifest_declares_every_tensor(sparse_bundle):
    manifest = json.loads((sparse_bundle.folder / MANIFEST).read_text())
    assert list(manifest["graphs"]) == ["encode", "dit_first", "dit", "decode"]
    (frames, first) = manifest["graphs"]["encode"]["inputs"]
    assert frames == {"name": "frames", "dtype": "uint8", "shape": [8, 100, 116, 3], "layout": "T H W C"}
    assert first["shape"] == []
    assert manifest["graphs"]["dit"]["inputs"][5]["dtype"] == "float32"
    assert set(manifest["exporter"]) >= {"flashvsr-trt", "torch", "onnx"}


def test_bundles_of_other_sizes_share_one_weights_file(sparse_bundle, dense_bundle):
    one, other = (b.folder / b.weights.file.name for b in (sparse_bundle, dense_bundle))
    assert one.samefile(other)
    graphs = sum(file.size_bytes for file in sparse_bundle.graphs.values())
    assert graphs < one.stat().st_size


def test_the_weights_file_is_safetensors_that_graphs_point_into(dense_bundle):
    path = dense_bundle.folder / dense_bundle.weights.file.name
    tensors, offsets = load_file(path), data_offsets(path)
    content = path.read_bytes()
    for name, tensor in tensors.items():
        start = offsets[name]
        np.testing.assert_array_equal(
            np.frombuffer(content[start : start + tensor.nbytes], tensor.dtype).reshape(tensor.shape), tensor
        )
    assert not any("text_embedding" in name or "time_projection" in name for name in tensors)


def test_an_existing_folder_is_not_touched(dense_bundle):
    with pytest.raises(BundleError, match="exists"):
        export_bundle(dense_bundle.stream, "random:1", "fp32", dense_bundle.folder, ignore)


def test_an_interrupted_export_leaves_nothing(dense_bundle, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    network = network_for(dense_bundle)
    monkeypatch.setattr(exporting, "trace_graph", lambda *_: graph_of_one_weight(network))
    monkeypatch.setattr(exporting, "check_graph", interrupt)
    origin = exporting.WeightsOrigin("random:1", "", "", dense_bundle.weights.fingerprint)
    with pytest.raises(KeyboardInterrupt):
        export_network(network, dense_bundle.stream, origin, "fp32", tmp_path / "cut" / "bundle", ignore)
    assert list((tmp_path / "cut").iterdir()) == []


def test_too_little_disk_says_how_much_is_needed(dense_bundle, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(exporting.shutil, "disk_usage", lambda _: usage)
    network = network_for(dense_bundle)
    monkeypatch.setattr(exporting, "trace_graph", lambda *_: graph_of_one_weight(network))
    origin = exporting.WeightsOrigin("random:1", "", "", dense_bundle.weights.fingerprint)
    with pytest.raises(BundleError, match=r"0\.0 GB free and this bundle needs 0\.1 GB"):
        export_network(network, dense_bundle.stream, origin, "fp32", tmp_path / "full" / "bundle", ignore)


def test_too_little_memory_is_said_before_anything_is_loaded(tmp_path, capfd, monkeypatch):
    memory = psutil.virtual_memory()._replace(available=2**28)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    stream = ("--preset", "sparse-2.0", "--size", "128x128", "--weights", "random:1")
    assert_refused(
        call(capfd, "export", *stream, "-o", tmp_path / "bundle"),
        1,
        *("exporting sparse-2.0 needs about", "0.2 GiB free", "preset nano"),
    )
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_precision_is_named(dense_bundle, tmp_path):
    with pytest.raises(UsageError, match="precision 'int8'"):
        export_bundle(dense_bundle.stream, "random:1", "int8", tmp_path / "bundle", ignore)


@pytest.mark.parametrize("file", ["dit.onnx", "decode.onnx"])
def test_a_changed_graph_is_refused(copied, file):
    content = bytearray((copied / file).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / file).write_bytes(content)
    with pytest.raises(BundleError, match=f"{file} was changed: its sha256"):
        read_bundle(copied)


def test_a_truncated_weights_file_is_refused(copied, dense_bundle):
    path = copied / dense_bundle.weights.file.name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match="changed: it has"):
        read_bundle(copied, verify=False)


def test_a_missing_file_is_named(copied):
    (copied / "encode.onnx").unlink()
    with pytest.raises(BundleError, match=r"lacks encode\.onnx"):
        read_bundle(copied)


def test_another_format_version_is_refused(copied):
    edit_manifest(copied, format_version=99)
    with pytest.raises(BundleError, match="format version 99, and this release reads 2"):
        read_bundle(copied)


def test_a_damaged_manifest_is_refused(copied):
    edit_manifest(copied, stream={})
    with pytest.raises(BundleError, match="is damaged"):
        read_bundle(copied)
    (copied / MANIFEST).write_text("{")
    with pytest.raises(BundleError, match="is damaged"):
        read_bundle(copied)


def test_signatures_of_another_release_are_refused(copied):
    graphs = json.loads((copied / MANIFEST).read_text())["graphs"]
    graphs["dit"]["inputs"][0]["shape"][0] += 1
    edit_manifest(copied, graphs=graphs)
    with pytest.raises(BundleError, match="other inputs and outputs"):
        read_bundle(copied)


def test_a_folder_without_manifest_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match=r"has no bundle\.json"):
        read_bundle(tmp_path)
    with pytest.raises(BundleError, match="there is no bundle"):
        read_bundle(tmp_path / "absent")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--size", "250x128"), "nearest is 256x128"),
        (("--size", "256x0"), "is no size of a frame"),
        (("--size", "256x128", "--input-size", "64x64"), "give one of them"),
        (("--preset", "nanoo"), "did you mean 'nano'"),
        (("--input-size", "40x40", "--fit", "crop"), "--fit pad"),
    ],
)
def test_bad_options_are_one_line(arguments, message, tmp_path, capfd):
    outcome = call(capfd, "export", "--weights", "random", "-o", tmp_path / "bundle", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "bundle").exists()


def test_inspect_counts_a_bundle(sparse_bundle, capfd):
    outcome = call(capfd, "inspect", sparse_bundle.folder, "--json")
    assert outcome.code == 0
    reports = {report["name"]: report for report in json.loads(outcome.out)}
    layers = sparse_bundle.stream.preset.network.dit.layers
    assert reports["dit"]["custom_nodes"] == {
        "flashvsr::select_blocks": layers,
        "flashvsr::block_sparse_attention": layers,
    }
    assert reports["dit_first"]["flops"] > 2.9 * reports["dit"]["flops"]
    assert reports["dit"]["state_bytes"] == reports["dit_first"]["state_bytes"] > 0
    outcome = call(capfd, "inspect", sparse_bundle.graph_path("encode"))
    assert outcome.code == 0
    assert "Conv 2" in outcome.out


@pytest.mark.parametrize(
    ("node", "flops"),
    [
        (helper.make_node("MatMul", ["x", "w"], ["z"]), 2 * 5 * 2 * 3 * 4),
        (helper.make_node("Einsum", ["x", "w"], ["z"], equation="...ij, jk -> ...ik"), 2 * 5 * 2 * 3 * 4),
        (helper.make_node("Einsum", ["unknown", "w"], ["z"], equation="ij,jk->ik"), 0),
        (helper.make_node("MatMul", ["unknown", "w"], ["z"]), 0),
        (helper.make_node("Conv", ["x", "unknown"], ["z"]), 0),
        (helper.make_node("block_sparse_attention", ["x"], ["z"], domain="flashvsr"), 0),
    ],
)
def test_inspect_counts_what_another_graph_says_of_its_sizes(tmp_path, node, flops):
    ports = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [5, 2, 3]), ("w", [3, 4]), ("z", None))
    ]
    nodes = [helper.make_node("Other", ["x"], ["unknown"], domain="other"), node]
    opsets = [helper.make_opsetid(*opset) for opset in (("", 22), ("other", 1), ("flashvsr", 1))]
    graph = helper.make_graph(nodes, "graph", ports[:2], ports[2:])
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "other.onnx")
    assert inspect_file(tmp_path / "other.onnx").flops == flops


def test_inspect_refuses_what_is_no_model(tmp_path, capfd):
    path = tmp_path / "text.onnx"
    path.write_text("not a model")
    outcome = call(capfd, "inspect", path)
    assert outcome.code == 1
    assert "not a readable ONNX model" in outcome.err
