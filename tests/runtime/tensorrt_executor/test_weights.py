"""Weights on the device through TensorRT's own way of giving them back: with the engine's last reference."""

import gc
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest

from flashvsr_trt.engines.lowering import keep_custom_nodes
from flashvsr_trt.engines.manifest import EngineSet
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.tensorrt import engine as tensorrt_engine
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from tests.runtime.device_double import DeviceDouble
from tests.runtime.tensorrt_double import frames_for
from tests.runtime.tensorrt_executor.test_open import engine_set

WEIGHT_BYTES = 10_000_000


class Context:
    """An execution context. As in TensorRT's bindings, it keeps its engine."""

    def __init__(self, engine):
        self.engine = engine

    def set_device_memory(self, address, size):
        assert size == self.engine.device_memory_size_v2

    def set_tensor_address(self, name, address):
        return True

    def execute_async_v3(self, stream):
        return True


class Engine:
    """Weights on the device for as long as something refers to it."""

    device_memory_size_v2 = 512

    def __init__(self, device, names):
        self.names, self.num_io_tensors = names, len(names)
        device.taken += WEIGHT_BYTES
        weakref.finalize(self, self.give_back, device)

    @staticmethod
    def give_back(device):
        device.taken -= WEIGHT_BYTES

    def get_tensor_name(self, number):
        return self.names[number]

    def create_execution_context(self, strategy):
        return Context(self)


class Module:
    """The parts of TensorRT's Python module that loading and running use."""

    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")

    class ILogger:
        INTERNAL_ERROR, ERROR = "internal error", "error"

    def __init__(self, device, bundle):
        self.device, self.signatures, self.loaded = device, bundle.signatures, []

    def Runtime(self, logger):  # noqa: N802 - TensorRT's name
        return SimpleNamespace(deserialize_cuda_engine=self.deserialize)

    def deserialize(self, content):
        signature = self.signatures[content.decode()]
        self.loaded.append(signature.name)
        names = [spec.name for spec in (*signature.graph_inputs, *signature.graph_outputs)]
        return Engine(self.device, names)


@pytest.fixture
def opened(sparse_bundle, tmp_path, monkeypatch):
    """An executor on TensorRT's runner: one engine a graph, and no garbage collector to help."""
    device = DeviceDouble()
    module = Module(device, sparse_bundle)
    monkeypatch.setattr(tensorrt_engine, "load_module", lambda flavour: module)
    monkeypatch.setattr(EngineSet, "read_engine", lambda engines, name: name.encode())
    plans = {name: keep_custom_nodes(sparse_bundle.graph_path(name)).plan for name in sparse_bundle.graphs}
    # The manifest's key has the kernels' hashes, and there are none in fp32; nothing else reads it here.
    engines = engine_set(replace(sparse_bundle, precision="fp16"), tmp_path)
    runner = tensorrt_engine.TensorRTRunner(engines)
    gc.disable()
    yield module, TensorRTExecutor(sparse_bundle, plans, runner, device)
    gc.enable()


def test_the_weights_of_the_first_step_leave_the_device_after_it(opened, sparse_bundle):
    module, executor = opened
    device, graphs = module.device, len(sparse_bundle.graphs)
    assert executor.needed.weights == graphs * WEIGHT_BYTES
    session = Session(executor)
    before = device.taken
    session.push(frames_for(sparse_bundle, 3))
    assert device.taken == before - WEIGHT_BYTES
    # The next clip has them again for as long as its first step takes.
    session.flush()
    session.reset()
    other = Session(executor)
    other.push(frames_for(sparse_bundle, 3))
    assert module.loaded.count("dit_first") == 2
    assert executor.graphs.is_loaded("dit_first") is False


def test_each_engine_is_loaded_once_however_many_clips_run(opened, sparse_bundle):
    module, executor = opened
    sessions = [Session(executor) for _ in range(2)]
    for _ in range(2):
        for session in sessions:
            session.push(frames_for(sparse_bundle, 1))
    assert sorted(module.loaded) == sorted(sparse_bundle.graphs)
    del sessions, session, executor
