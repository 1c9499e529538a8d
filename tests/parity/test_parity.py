"""Exported graphs against the torch stages, over enough chunks that the ring wraps."""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest

from flashvsr_trt.bundle import read_bundle, write_manifest
from flashvsr_trt.config.signatures import DIT
from flashvsr_trt.export.export_bundle import describe_file
from flashvsr_trt.export.weights_file import data_offsets
from flashvsr_trt.parity.check import bundle_network, check_parity
from flashvsr_trt.parity.compare import compare_graphs, synthetic_frames
from flashvsr_trt.parity.onnxruntime_stages import OnnxRuntimeStages
from flashvsr_trt.parity.stage_runner import BLOCKS
from flashvsr_trt.parity.tensor_error import TensorError, psnr, thresholds_for
from flashvsr_trt.parity.torch_stages import TorchStages
from tests.cli.command import call
from tests.exported import network_for

FRAMES = 53
"""Seven chunks: the ring of four slots wraps."""


@pytest.mark.parametrize("name", ["sparse_bundle", "dense_bundle"])
def test_every_graph_matches_torch_on_the_same_inputs(name, request):
    bundle = request.getfixturevalue(name)
    frames = synthetic_frames(bundle, FRAMES)
    reference = TorchStages(network_for(bundle), bundle.stream)
    errors = compare_graphs(bundle, reference, OnnxRuntimeStages(bundle), frames)

    compared = {graph: {e.tensor for e in errors if e.graph == graph} for graph in bundle.graphs}
    sparse = bundle.stream.preset.attention.sparse_ratio is not None
    layers = range(bundle.stream.preset.network.dit.layers)
    for graph, signature in bundle.signatures.items():
        masks = {f"{BLOCKS}{layer}" for layer in layers} if sparse and graph.startswith(DIT) else set()
        assert compared[graph] == {spec.name for spec in signature.graph_outputs} | masks
    assert [e.calls for e in errors if e.tensor == "frames"] == [7]
    for error in errors:
        assert not error.exceeds(thresholds_for("fp32")), error
        if error.tensor.startswith(BLOCKS):
            assert error.mask_agreement == 1.0


@pytest.mark.parametrize("name", ["bfloat16_bundle", "bfloat16_low_latency_bundle"])
def test_a_bfloat16_bundle_of_nano_is_compared_in_float32_by_the_limits_of_float32(name, request):
    bundle = request.getfixturevalue(name)
    assert (bundle.precision, bundle.weights.spec) == ("bf16", None)
    # Four units, of which the official schedule takes three at once.
    report = check_parity(bundle, bundle_network(bundle), 29).report
    assert report.precision == "fp32"
    assert report.exceeded == []
    masks = [error for error in report.tensors if error.tensor.startswith(BLOCKS)]
    assert masks
    assert {error.mask_agreement for error in masks} == {1.0}


def test_a_changed_bfloat16_weight_diverges(bfloat16_bundle, tmp_path):
    copied = shutil.copytree(bfloat16_bundle.folder, tmp_path / "bundle")
    bundle = replace(bfloat16_bundle, folder=copied)
    path = bundle.folder / bundle.weights.file.name
    content = bytearray(path.read_bytes())
    at = data_offsets(path)["decoder.inserted.weight"]
    content[at : at + 64] = bytes(64)
    path.unlink()
    path.write_bytes(content)
    assert check_parity(bundle, bundle_network(bundle), 9).report.first_diverging == "decode"


def test_selection_is_exercised_by_the_sparse_bundle(sparse_bundle):
    """Parity of masks means something only where some blocks are kept and some are not."""
    stages = OnnxRuntimeStages(sparse_bundle)
    signature = sparse_bundle.signatures[DIT]
    random = np.random.default_rng(0)
    inputs = {
        spec.name: random.normal(size=spec.shape).astype(sparse_bundle.dtype_of(spec))
        for spec in signature.inputs
        if spec.dtype != "bool"
    }
    made = stages.run(DIT, inputs | {"slot_valid": np.array([True, True, True, False])})
    kept = made[f"{BLOCKS}0"].mean()
    assert 0.02 < kept < 0.5


def test_parity_passes_on_an_unchanged_bundle(dense_bundle, capfd):
    outcome = call(capfd, "parity", dense_bundle.folder, "--frames", 13, "--json")
    assert outcome.code == 0, outcome.err
    report = json.loads(outcome.out)
    assert report["first_diverging"] is None
    assert {row["graph"] for row in report["tensors"]} == {"encode", "dit", "decode", "end to end"}


def test_parity_names_the_stage_and_the_layer_that_diverge(dense_bundle, tmp_path):
    """One wrong bias in block 1 of the DiT: the file is consistent, the network is another."""
    folder = tmp_path / "spoiled"
    folder.mkdir()
    for file in dense_bundle.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / dense_bundle.weights.file.name
    offset = data_offsets(weights)["dit.blocks.1.ffn.0.bias"]
    content = bytearray(weights.read_bytes())
    content[offset : offset + 4] = np.float32(50).tobytes()
    weights.write_bytes(content)
    spoiled = replace(
        dense_bundle,
        folder=folder,
        weights=replace(dense_bundle.weights, file=describe_file(weights)),
    )
    (spoiled.folder / "bundle.json").unlink()
    write_manifest(spoiled)

    result = check_parity(read_bundle(folder), bundle_network(spoiled), frame_count=5, bisect=True)
    assert result.report.first_diverging == DIT
    assert result.divergence.node.startswith("dit.blocks.1.ffn.0/")


def test_parity_refuses_other_weights_than_the_bundles(dense_bundle, capfd):
    outcome = call(capfd, "parity", dense_bundle.folder, "--weights", "random:2", "--frames", 5)
    assert outcome.code == 1
    assert "are other weights" in outcome.err


def test_a_value_that_is_no_number_exceeds():
    error = TensorError("dit", "latent")
    error.add(np.ones(4, np.float32), np.array([1, 1, np.nan, 1], np.float32))
    assert error.exceeds(thresholds_for("bf16"))


def test_psnr_of_one_level_everywhere():
    frames = np.full((2, 8, 8, 3), 100, np.uint8)
    assert psnr(frames, frames + 1) == pytest.approx(48.13, abs=0.01)
    assert psnr(frames, frames) == float("inf")


@pytest.mark.parametrize("graph", ["encode", "dit_first", "dit", "decode"])
def test_graphs_hold_what_they_must(sparse_bundle, graph, tmp_path):
    model = onnx.load(sparse_bundle.graph_path(graph), load_external_data=False)
    counts = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
        assert not node.doc_string
        assert not node.metadata_props
    layers = sparse_bundle.stream.preset.network.dit.layers if graph.startswith(DIT) else 0
    assert counts.get("block_sparse_attention", 0) == layers
    assert counts.get("select_blocks", 0) == layers
    assert len(model.functions) == (2 if layers else 0)
    assert "TopK" not in counts
    copied = shutil.copytree(sparse_bundle.folder, tmp_path / "copied")
    onnx.checker.check_model(str(copied / f"{graph}.onnx"), full_check=True)


def test_dense_attention_has_nothing_between_softmax_and_product(dense_bundle):
    """What engines fuse: with more there, the score matrix would be kept in memory."""
    model = onnx.load(dense_bundle.graph_path(DIT), load_external_data=False)
    users = {name: node.op_type for node in model.graph.node for name in node.input}
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    assert len(softmaxes) == 2 * dense_bundle.stream.preset.network.dit.layers
    assert {users[node.output[0]] for node in softmaxes} == {"MatMul"}
