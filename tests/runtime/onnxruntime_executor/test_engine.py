"""The onnxruntime flavour: its sessions behind the executor's seam, with the CPU provider on host memory."""

import json
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from flashvsr_trt.engines.build import build_engines
from flashvsr_trt.engines.flavours import ONNXRUNTIME, Target
from flashvsr_trt.engines.manifest import WEIGHTS_KEY
from flashvsr_trt.engines.onnxruntime_graph import SHARED_BYTES, adapt_for_onnxruntime
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.errors import EngineError, UsageError
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.onnxruntime.engine import OnnxRuntimeRunner
from flashvsr_trt.runtime.onnxruntime.executor import OnnxRuntimeExecutor
from flashvsr_trt.runtime.onnxruntime.session import CPU, CUDA
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from tests.exported import ignore
from tests.runtime.host_device import HostDevice
from tests.runtime.queued_runner import QueuedRunner
from tests.runtime.tensorrt_double import frames_for, run_steps

TARGET = Target(ONNXRUNTIME, "1.31.1", "9.0")


@pytest.fixture(scope="module")
def engines(dense_bundle, tmp_path_factory):
    """Engines of a bundle without kernels: it is the sessions that are looked at here."""
    return build_engines(tmp_path_factory.mktemp("engines"), dense_bundle, TARGET, notify=ignore)


def open_on(engines, device, **options):
    runner = QueuedRunner(engines, device, provider=CPU)
    return TensorRTExecutor(engines.bundle, engines.manifest.plans, runner, device, **options)


@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_frames_are_those_of_the_whole_graphs(engines, dense_bundle, cuda_graphs):
    steps = 7
    session = Session(OnnxRuntimeExecutor(dense_bundle, threads=1))
    expected = np.concatenate([session.push(frames_for(dense_bundle, steps)), session.flush()])
    device = HostDevice()
    executor = open_on(engines, device, cuda_graphs=cuda_graphs)
    made = run_steps(executor, steps, overlap=True)
    assert psnr(expected, made) > 60
    del executor
    assert device.taken == 0


def test_a_matrix_that_two_segments_read_is_on_the_device_once(engines):
    device = HostDevice()
    runner = OnnxRuntimeRunner(engines, device, provider=CPU)
    name = engines.manifest.plans["dit"].engines[0]
    first = runner.load(name, device.new_stream())
    taken = device.taken
    assert taken == sum(place["size_bytes"] for place in first.places.values()) > 0
    second = runner.load(name, device.new_stream())
    assert device.taken == taken
    first.close()
    assert device.taken == taken
    second.close()
    assert device.taken == 0


def test_a_session_runs_on_its_own_stream_only(engines):
    device = HostDevice()
    engine = OnnxRuntimeRunner(engines, device, provider=CPU).load("decode", 7)
    with pytest.raises(EngineError, match="decode was loaded for another stream"):
        engine.new_context(0, None).enqueue(8)


def test_on_a_gpu_float32_is_computed_as_float32_on_the_executors_stream(engines):
    runner = OnnxRuntimeRunner(engines, HostDevice(), index=1, provider=CPU)
    runner.provider = CUDA
    ((provider, settings),) = runner._providers(engines.manifest.plans["decode"].engines[0], 7)
    assert (provider, settings["device_id"], settings["user_compute_stream"]) == (CUDA, "1", "7")
    assert settings["use_tf32"] == "0"


def test_a_node_that_the_provider_does_not_run_is_named(engines, monkeypatch):
    from flashvsr_trt.runtime.onnxruntime import engine as onnxruntime_engine

    device = HostDevice()
    runner = OnnxRuntimeRunner(engines, device, provider=CPU)
    check = onnxruntime_engine._check_provider
    monkeypatch.setattr(
        onnxruntime_engine,
        "_check_provider",
        lambda engine, session, provider: check(engine, session, "CUDA"),
    )
    with pytest.raises(EngineError, match=r"decode has \d+ nodes that CUDA cannot run: \S+ \(\w+\), "):
        runner.load("decode", 1)


def test_an_engine_that_was_changed_is_refused(dense_bundle, tmp_path):
    made = build_engines(tmp_path, dense_bundle, TARGET, notify=ignore)
    path = made.engine_path("decode")
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(EngineError, match=r"decode\.engine was changed"):
        OnnxRuntimeRunner(made, HostDevice(), provider=CPU).load("decode", 1)


@pytest.mark.parametrize(
    "options",
    [BuildOptions(optimization_level=3), BuildOptions(workspace_mb=64), BuildOptions(strip_weights=True)],
)
def test_options_of_tensorrt_are_refused(dense_bundle, tmp_path, options):
    with pytest.raises(UsageError, match="the onnxruntime flavour has no such option"):
        build_engines(tmp_path, dense_bundle, TARGET, options, notify=ignore)


def model_of(nodes, inputs, output, initializers=()):
    """A model whose values' shapes are all given."""
    values = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in inputs]
    made = helper.make_tensor_value_info(*output)
    graph = helper.make_graph(nodes, "test", values, [made], list(initializers))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


def run(model, inputs):
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU])
    return session.run(None, inputs)[0]


@pytest.mark.parametrize(
    ("sizes", "axis", "operators"),
    [
        ((2, 8), 0, ["Split", "Concat"]),
        ((4, 1), -1, ["Split", "Concat"]),
        ((3, 3), 1, ["Concat"]),
        ((768, 16), 1, ["Pad", "Pad", "Add"]),
        ((1, 40, 2), 1, ["Pad", "Pad", "Add", "Pad", "Add"]),
    ],
)
def test_unequal_parts_are_concatenated_without_a_table(sizes, axis, operators):
    shapes = [[2, 3, 4] for _ in sizes]
    for shape, size in zip(shapes, sizes, strict=True):
        shape[axis] = size
    total = list(shapes[0])
    total[axis] = sum(sizes)
    names = [f"x{i}" for i in range(len(sizes))]
    node = helper.make_node("Concat", names, ["y"], "join", axis=axis)
    inputs = [(n, TensorProto.FLOAT, s) for n, s in zip(names, shapes, strict=True)]
    model = model_of([node], inputs, ("y", TensorProto.FLOAT, total))
    arrays = {
        n: np.random.default_rng(i).normal(size=s).astype(np.float32) for i, (n, _, s) in enumerate(inputs)
    }
    expected = run(model, arrays)
    model = adapt_for_onnxruntime(model)
    assert [n.op_type for n in model.graph.node] == operators
    np.testing.assert_array_equal(run(model, arrays), expected)


def test_a_concatenation_that_no_rewrite_fits_is_named():
    node = helper.make_node("Concat", ["a", "b"], ["y"], "join", axis=0)
    kind = TensorProto.INT64
    model = model_of([node], [("a", kind, [40]), ("b", kind, [1])], ("y", kind, [41]))
    with pytest.raises(EngineError, match=r"join concatenates 2 parts of \[1, 40\] rows"):
        adapt_for_onnxruntime(model)


@pytest.mark.parametrize(
    ("graph", "precision", "tf32"),
    [("decode", "fp32", "0"), ("decode", "fp16", "1"), ("encode", "fp16", "1"), ("dit", "fp16", "0")],
)
def test_float16_convolutions_keep_tensor_cores_and_scores_their_bits(engines, graph, precision, tf32):
    key = replace(engines.manifest.key, precision=precision)
    of_precision = replace(engines, manifest=replace(engines.manifest, key=key))
    sessions = OnnxRuntimeRunner(of_precision, HostDevice(), provider=CPU)
    sessions.provider = CUDA
    for engine in engines.manifest.plans[graph].engines:
        ((_, settings),) = sessions._providers(engine, stream=1)
        assert settings["use_tf32"] == tf32
    assert sessions._options().use_deterministic_compute


@pytest.mark.parametrize("mode", ["edge", "reflect", "constant"])
def test_padding_and_clipping_of_integers_go_by_operators_that_a_gpu_has(mode):
    initializers = [
        numpy_helper.from_array(np.array([1, 2, 0, 3], np.int64), "pads"),
        numpy_helper.from_array(np.int32(-(2**30)), "low"),
        numpy_helper.from_array(np.int32(2**30 + 1), "high"),
    ]
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"], "pad", mode=mode),
        helper.make_node("Clip", ["padded", "low", "high"], ["y"], "clip"),
    ]
    model = model_of(
        nodes, [("x", TensorProto.INT32, [4, 5])], ("y", TensorProto.INT32, [5, 10]), initializers
    )
    model.graph.value_info.append(helper.make_tensor_value_info("padded", TensorProto.INT32, [5, 10]))
    x = np.random.default_rng(0).integers(-(2**31), 2**31, (4, 5)).astype(np.int32)
    expected = run(model, {"x": x})
    model = adapt_for_onnxruntime(model)
    assert [n.op_type for n in model.graph.node] == ["Cast", "Pad", "Cast", "Max", "Min"]
    np.testing.assert_array_equal(run(model, {"x": x}), expected)


def test_only_matrices_of_products_become_inputs(engines):
    for name in engines.manifest.engines:
        model = onnx.load(engines.engine_path(name), load_external_data=False)
        places = json.loads({p.key: p.value for p in model.metadata_props}[WEIGHTS_KEY])
        assert {v.name for v in model.graph.input} >= set(places)
        for node in model.graph.node:
            assert node.op_type in ("Gemm", "MatMul") or not set(places) & set(node.input)
        assert all(place["size_bytes"] >= SHARED_BYTES for place in places.values())
