"""What `engines verify` finds in graphs and sessions; the branch of a GPU on the device double."""

import shutil
from functools import partial

import onnx
import pytest

from flashvsr_trt.engines.build import build_engines
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.flavours import ONNXRUNTIME, Target
from flashvsr_trt.engines.manifest import open_engines
from flashvsr_trt.engines.verify import _bindings, _sessions, verify_engines
from flashvsr_trt.errors import EngineError
from flashvsr_trt.runtime.onnxruntime import engine as onnxruntime_engine
from flashvsr_trt.runtime.onnxruntime.session import CPU
from flashvsr_trt.runtime.tensorrt import cuda_device
from tests.exported import ignore
from tests.runtime.host_device import HostDevice

TARGET = Target(ONNXRUNTIME, "1.31.1", "9.0")
GPU = Device("a GPU", "9.0", "13.0")


@pytest.fixture(scope="module")
def built(dense_bundle, tmp_path_factory):
    return build_engines(tmp_path_factory.mktemp("engines"), dense_bundle, TARGET, notify=ignore)


@pytest.fixture
def engines(built, tmp_path):
    """A copy that may be spoiled."""
    return open_engines(shutil.copytree(built.folder, tmp_path / built.folder.name))


def change(path, edit):
    """Edit a graph's file in place."""
    model = onnx.load(path, load_external_data=False)
    edit(model.graph)
    path.unlink()
    onnx.save(model, path)


def test_every_session_opens_on_a_cpu(built):
    checks = {check.name: check for check in verify_engines(built, None)}
    assert checks["sessions"].passed
    assert "none was run" in checks["sessions"].detail
    assert checks["deserialise"].passed is None


def test_on_a_gpu_every_session_is_opened_and_its_memory_given_back(built, monkeypatch):
    device = HostDevice()
    monkeypatch.setattr(cuda_device, "CudaDevice", lambda: device)
    sessions = partial(onnxruntime_engine.OnnxRuntimeRunner, provider=CPU)
    monkeypatch.setattr(onnxruntime_engine, "OnnxRuntimeRunner", sessions)
    check = {check.name: check for check in verify_engines(built, GPU)}["deserialise"]
    assert check.passed, check
    assert device.taken == 0
    assert not device.queues


def test_a_session_of_other_shapes_than_the_plan_is_found(engines):
    def widen(graph):
        graph.input[0].type.tensor_type.shape.dim[0].dim_value += 1

    change(engines.engine_path("encode"), widen)
    with pytest.raises(EngineError, match=r"encode"):
        _sessions(engines)


def test_a_graph_of_another_type_than_the_plan_is_found(engines):
    def narrow(graph):
        graph.output[-1].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16

    change(engines.model_path("decode"), narrow)
    with pytest.raises(EngineError, match="other inputs or outputs than the plan binds"):
        _bindings(engines)


def test_a_graph_that_computes_other_shapes_is_found(engines):
    def transpose(graph):
        node = next(node for node in graph.node if node.op_type == "Transpose")
        perm = next(attribute for attribute in node.attribute if attribute.name == "perm")
        perm.ints[:] = perm.ints[::-1]

    change(engines.model_path("encode"), transpose)
    with pytest.raises(EngineError, match=r"encode.*does not compute the shapes that it says"):
        _bindings(engines)
