"""What TensorRT-RTX makes of the exported graphs: which layers move data, and that there are no others."""

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import (
    UNIT_FRAMES,
    UNIT_LATENT_FRAMES,
    ProjectorConfig,
    find_preset,
    find_schedule,
)
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.engines.build import build_engines
from flashvsr_trt.engines.flavours import RTX, TENSORRT
from flashvsr_trt.engines.layers import (
    Layer,
    layers_of_inspector,
    layers_of_log,
    read_layers,
    write_layers,
)
from flashvsr_trt.engines.manifest import EngineSet
from flashvsr_trt.engines.tensorrt_api import built_layers
from flashvsr_trt.errors import EngineError
from flashvsr_trt.export.export_bundle import export_bundle
from tests.engines.conftest import FLOAT16, SPARSE, SPARSE_4X
from tests.exported import ignore

GROWN_FRAMES = UNIT_LATENT_FRAMES + 2 * UNIT_LATENT_FRAMES + UNIT_FRAMES
"""Frames that the three `Grow`s of a unit make."""

STATISTICS = 1024
"""Tensors of fewer elements are no frames but sums over them."""

GROW = "decoder.grows"
CELLS = "decoder.clamp"
"""The condition becomes cells in the layer that clamps them."""


def layers_of(engines: EngineSet, engine: str) -> tuple[Layer, ...]:
    return read_layers(engines.folder, engine)


def moves_frames(layer: Layer) -> bool:
    """Whether a layer computes nothing, and moves more than a few sums."""
    return layer.copies and any(math.prod(shape) > STATISTICS for shape in layer.outputs.values())


def of(layer: Layer, module: str) -> bool:
    return any(node.startswith(module) for node in layer.nodes)


def assert_decode_moves_no_more(layers: tuple[Layer, ...], interleaved: int) -> None:
    """A grown frame is interleaved `interleaved` times in all; no other layer moves or transposes a frame.

    Two transpositions are part of layers that compute: the condition's, which becomes cells as it is
    clamped, and that of the frames, which become bytes.
    """
    grown = [layer for layer in layers if of(layer, GROW) and "Tran" in layer.steps]
    assert len(grown) == interleaved
    assert [layer.name for layer in layers if moves_frames(layer) and layer not in grown] == []
    transposing = [layer for layer in layers if "Tran" in layer.steps and layer not in grown]
    assert [of(layer, CELLS) or "frames" in layer.outputs for layer in transposing] == [True, True]


@pytest.mark.parametrize(
    ("kind", "interleaved"),
    [(SPARSE, GROWN_FRAMES), (SPARSE_4X, GROWN_FRAMES), (FLOAT16, 0)],
)
def test_decode_of_nano_moves_no_frames_but_grown_ones_in_bfloat16(engines_of, kind, interleaved):
    assert_decode_moves_no_more(layers_of(engines_of(kind), "decode"), interleaved)


@pytest.fixture(scope="module")
def full_size_layer(tmp_path_factory, rtx_target):
    """Engines of one full-size layer of the DiT and of the full-size decoder; the projector is small."""
    preset = find_preset("full-attn")
    network = replace(
        preset.network, dit=replace(preset.network.dit, layers=1), projector=ProjectorConfig(hidden=(8, 16))
    )
    stream = StreamConfig(replace(preset, network=network), Geometry(64, 64, 2), find_schedule("low-latency"))
    folder = tmp_path_factory.mktemp("full-size")
    bundle = export_bundle(stream, "random:1", "bf16", folder / "bundle", ignore)
    return build_engines(folder / "engines", bundle, rtx_target, notify=ignore)


def test_the_full_size_decoder_moves_no_frames_but_grown_ones(full_size_layer):
    assert_decode_moves_no_more(layers_of(full_size_layer, "decode"), GROWN_FRAMES)


def test_a_full_size_layer_makes_queries_keys_and_values_in_one_product(full_size_layer):
    products = [layer for layer in layers_of(full_size_layer, "dit") if layer.kind == "gemm"]
    dim = full_size_layer.bundle.stream.preset.network.dit.dim
    assert any(shape[-1] == 3 * dim for layer in products for shape in layer.outputs.values())


def test_layers_are_read_back_as_they_were_written(engines_of, tmp_path):
    layers = layers_of(engines_of(SPARSE), "dit.01")
    assert layers
    write_layers(tmp_path, "dit.01", layers)
    assert read_layers(tmp_path, "dit.01") == layers


LINE = (
    "Name: __myl_SlicTran_myl0_7, LayerType: kgen, Inputs: [ { Name: x, Dimensions: [2,3], Strides: [3,1] }], "  # noqa: E501
    "Constants: [ { Name: c, Dimensions: [1], Strides: [1] }], Outputs: [ { Name: y, Dimensions: [3,2], "
    "Strides: [2,1] }], TacticName: __myl_SlicTran_0x1, StreamId: 0, Metadata: [ONNX Layer: a/Slice]"
    "[ONNX Layer: a/Transpose]"
)
LAYER = Layer(
    "__myl_SlicTran_myl0_7",
    "kgen",
    "__myl_SlicTran_0x1",
    ("Slic", "Tran"),
    {"x": (2, 3)},
    {"y": (3, 2)},
    ("a/Slice", "a/Transpose"),
)


def test_the_last_list_of_a_log_is_taken_and_synchronisation_left_out():
    waits = "Name: entry^bb^wait_myl0_1, LayerType: wait, Inputs: [], Constants: [], Outputs: [], "
    waits += "TacticName: , StreamId: 4, EventId: 16, Metadata: "
    assert layers_of_log(["Layers:\n" + waits, "other", f"Layers:\n{waits}\n{LINE}\nBindings:"]) == (LAYER,)
    assert layers_of_log(["no list"]) == ()


def test_an_inspector_says_the_same():
    tensors = {
        "Inputs": [{"Name": "x", "Dimensions": [2, 3]}],
        "Outputs": [{"Name": "y", "Dimensions": [3, 2]}],
    }
    described = {
        "Name": LAYER.name,
        "LayerType": "kgen",
        "TacticName": LAYER.tactic,
        "Metadata": "[ONNX Layer: a/Slice][ONNX Layer: a/Transpose]",
    }
    assert layers_of_inspector(json.dumps({"Layers": [described | tensors]})) == (LAYER,)


class TensorRT:
    """Loading and inspecting, as in TensorRT's bindings."""

    LayerInformationFormat = SimpleNamespace(ONELINE=0, JSON=1)

    def __init__(self, text):
        self.text = text

    def Runtime(self, logger):  # noqa: N802 - TensorRT's name
        return SimpleNamespace(deserialize_cuda_engine=self.deserialize)

    def deserialize(self, plan):
        assert plan == b"plan"
        inspector = SimpleNamespace(get_engine_information={1: self.text}.__getitem__)
        return self.text and SimpleNamespace(create_engine_inspector=lambda: inspector)


def test_tensorrt_is_asked_for_its_layers_and_tensorrt_rtx_has_logged_them():
    logger = SimpleNamespace(layers=[f"Layers:\n{LINE}"], reason="of another version")
    asked = TensorRT(json.dumps({"Layers": ["a line, where there are no details"]}))
    assert built_layers(asked, logger, RTX, b"plan") == (LAYER,)
    assert built_layers(asked, logger, TENSORRT, b"plan") == ()
    with pytest.raises(EngineError, match="TensorRT cannot load what it built: of another version"):
        built_layers(TensorRT(None), logger, TENSORRT, b"plan")


@pytest.mark.parametrize("content", [None, "[", '[{"name": "x"}]', "{}3", '[{"inputs": 3}]'])
def test_what_is_no_list_of_layers_is_refused(tmp_path, content):
    path = tmp_path / "decode.layers.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EngineError, match=r"decode\.layers\.json"):
        read_layers(tmp_path, "decode")
