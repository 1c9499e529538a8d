"""Cutting graphs at their custom nodes: the pieces together are the whole."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.engines.lowering import custom_nodes, lower_graph
from flashvsr_trt.engines.plan import EngineStep, KernelStep, SegmentPlan, check_plan
from flashvsr_trt.errors import EngineError
from flashvsr_trt.files.manifest_reader import record_of
from flashvsr_trt.parity.compare import compare_graphs, synthetic_frames
from flashvsr_trt.parity.onnxruntime_stages import OnnxRuntimeStages
from flashvsr_trt.parity.stage_runner import StageExecutor
from flashvsr_trt.runtime.session import Session
from tests.engines.segments import SegmentStages
from tests.exported import export_golden
from tests.golden import assert_within_levels, load_case
from tests.golden_clips import golden_noise, skip_two


@pytest.fixture(scope="module")
def lowered(sparse_bundle):
    return {name: lower_graph(sparse_bundle.graph_path(name)) for name in sparse_bundle.graphs}


def test_a_sparse_dit_is_cut_at_every_layer(lowered, sparse_bundle):
    layers = sparse_bundle.stream.preset.network.dit.layers
    for graph in ("dit", "dit_first"):
        plan = lowered[graph].plan
        assert plan.engines == tuple(f"{graph}.{number:02d}" for number in range(layers + 1))
        kernels = [step.operator for step in plan.kernels]
        assert kernels == ["select_blocks", "block_sparse_attention"] * layers
        kinds = [isinstance(step, EngineStep) for step in plan.steps]
        assert kinds == [True, False, False] * layers + [True]


def test_a_graph_without_custom_nodes_is_one_engine(lowered, dense_bundle):
    assert lowered["encode"].plan.engines == ("encode",)
    assert lowered["decode"].plan.engines == ("decode",)
    assert lower_graph(dense_bundle.graph_path("dit")).plan.engines == ("dit",)


def test_the_plan_has_the_signature_of_the_graph(lowered, sparse_bundle):
    for name, signature in sparse_bundle.signatures.items():
        plan = lowered[name].plan
        for names, specs in ((plan.inputs, signature.graph_inputs), (plan.outputs, signature.graph_outputs)):
            found = [(n, plan.tensors[n].dtype, plan.tensors[n].shape) for n in names]
            assert found == [(s.name, sparse_bundle.dtype_of(s), s.shape) for s in specs]


def test_segments_are_valid_models_without_custom_nodes(lowered, sparse_bundle):
    for graph in lowered.values():
        for segment in graph.segments.values():
            assert custom_nodes(segment) == []
            assert not segment.functions
            onnx.shape_inference.infer_shapes(segment, check_type=True, strict_mode=True)


def test_weights_are_referred_to_and_not_copied(lowered, sparse_bundle):
    weights = {sparse_bundle.weights.file.name}
    for graph in lowered.values():
        for segment in graph.segments.values():
            files = {t.external_data[0].value for t in segment.graph.initializer if t.external_data}
            assert files <= weights
            assert segment.ByteSize() < 200_000


def test_every_node_is_in_one_segment_or_only_a_view(lowered, sparse_bundle):
    whole = onnx.load(sparse_bundle.graph_path("dit"), load_external_data=False)
    placed = [node.name for s in lowered["dit"].segments.values() for node in s.graph.node]
    assert len(placed) == len(set(placed))
    left = [n for n in whole.graph.node if n.name not in placed and n.domain == ""]
    assert {node.op_type for node in left} == {"Reshape"}


def test_new_keys_are_written_once_and_read_where_they_lie(lowered):
    plan = lowered["dit"].plan
    for step in plan.kernels:
        if step.operator == "block_sparse_attention":
            layer = step.node.split("/")[0].rpartition(".")[2]
            assert plan.memory_of(step.inputs["k"]) == f"new_keys.{layer}"
            assert plan.memory_of(step.inputs["v"]) == f"new_values.{layer}"
            assert plan.memory_of(step.inputs["ring_k"]) == f"ring_keys.{layer}"


def test_lifetimes_hold_every_read(lowered):
    for graph in lowered.values():
        plan = graph.plan
        for index, step in enumerate(plan.steps):
            kernel = isinstance(step, KernelStep)
            for name in step.inputs.values() if kernel else step.inputs:
                for tensor in (plan.tensors[name], plan.tensors[plan.memory_of(name)]):
                    assert tensor.written < index <= tensor.last_read
            for name in step.outputs.values() if kernel else step.outputs:
                assert plan.tensors[name].written == index


def test_a_plan_survives_json(lowered):
    for graph in lowered.values():
        read = record_of(SegmentPlan, json.loads(json.dumps(dataclasses.asdict(graph.plan))))
        check_plan(read, graph.plan.graph)
        assert read == graph.plan


@pytest.mark.parametrize("name", ["sparse_bundle", "dense_bundle"])
def test_the_pieces_give_what_the_whole_gives(name, request):
    bundle: Bundle = request.getfixturevalue(name)
    frames = synthetic_frames(bundle, 29)
    for error in compare_graphs(bundle, OnnxRuntimeStages(bundle), SegmentStages(bundle), frames):
        if error.mask_agreement is not None:
            assert error.mask_agreement == 1.0, error
        assert error.error_of_largest < 1e-5, error


def test_the_official_clip_comes_out_of_the_pieces(bundles_folder):
    case = load_case("e2e_official")
    bundle = export_golden(bundles_folder, "e2e_official", "official", "pil")
    session = Session(StageExecutor(SegmentStages(bundle), bundle), noise=golden_noise(case))
    frames = np.concatenate([session.push(case["lr"].numpy()), session.flush()])
    assert_within_levels(frames[::2], case["frames_u8_some"].numpy())
    assert (frames[::2] != case["frames_u8_some"].numpy()).mean() < 1e-3


def test_the_streaming_clip_and_its_masks_come_out_of_the_pieces(bundles_folder):
    case = load_case("e2e_streaming")
    bundle = export_golden(bundles_folder, "e2e_streaming", "low-latency", "torch")
    stages, masks = SegmentStages(bundle), []
    executor = StageExecutor(stages, bundle)
    session = Session(executor, noise=golden_noise(case), position=skip_two)
    run = stages.run

    def run_and_keep(graph, inputs):
        made = run(graph, inputs)
        if graph == "dit":
            masks.append(made["blocks.0"].sum(axis=-1))
        return made

    stages.run = run_and_keep
    frames = np.concatenate([session.push(case["lr"].numpy()), session.flush()])
    expected = case["frames_u8"].numpy()
    assert_within_levels(frames, expected)
    assert (frames != expected).mean() < 1e-3
    for call, counted in enumerate(masks):
        np.testing.assert_array_equal(counted, case[f"dbg.mask.{call}.0"][0].sum(dim=-1).numpy())


def custom_model(tmp_path, domain, operator, constant=False):
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    node = helper.make_node(operator, ["c" if constant else "x"] * 2, ["y"], "odd node", domain=domain)
    weights = [helper.make_tensor("c", TensorProto.FLOAT, [4], np.zeros(4))]
    graph = helper.make_graph([node], "one", values[:1], values[1:], weights)
    opsets = [helper.make_opsetid("", 22), helper.make_opsetid(domain, 1)]
    path = tmp_path / "one.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_a_node_that_nothing_runs_is_named(tmp_path):
    path = custom_model(tmp_path, "elsewhere", "Fancy")
    with pytest.raises(EngineError, match="odd node is a elsewhere::Fancy"):
        lower_graph(path)


def test_a_kernel_that_takes_a_constant_is_named(tmp_path):
    path = custom_model(tmp_path, "flashvsr", "select_blocks", constant=True)
    with pytest.raises(EngineError, match="odd node takes the constant c"):
        lower_graph(path)


def test_custom_nodes_are_found_inside_control_flow(tmp_path):
    inner = helper.make_graph([helper.make_node("Fancy", [], ["z"], "deep", domain="elsewhere")], "g", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([node], "one", [], []))
    assert custom_nodes(model) == ["deep (elsewhere::Fancy)"] * 2


def test_plans_are_frozen(lowered):
    with pytest.raises(dataclasses.FrozenInstanceError):
        lowered["dit"].plan.graph = "other"
