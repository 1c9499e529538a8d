"""Engines against torch: through the executor on the device double, with engines that are right and wrong."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from flashvsr_trt.config.signatures import DIT
from flashvsr_trt.engines.build import build_engines
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.flavours import ONNXRUNTIME, Target
from flashvsr_trt.engines.plan import BEFORE, EngineStep, PlanTensor, SegmentPlan
from flashvsr_trt.parity.check import check_engines
from flashvsr_trt.parity.stage_runner import BLOCKS
from flashvsr_trt.parity.torch_stages import TorchStages
from flashvsr_trt.runtime.tensorrt import named_engines
from flashvsr_trt.runtime.tensorrt import open as tensorrt_open
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from tests.cli.command import assert_refused, call
from tests.exported import ignore, network_for
from tests.runtime.device_double import DeviceDouble
from tests.runtime.engine_double import ComputingRunner, RecordedRunner
from tests.runtime.host_device import HostDevice
from tests.runtime.queued_runner import QueuedRunner
from tests.runtime.tensorrt_double import open_executor

FRAMES = 29
"""Four chunks: the first step takes three, so each graph of the DiT runs."""

GPU = Device("a GPU", "9.0", "13.0")
VERSION = "1.31.1"


class WrongRunner(ComputingRunner):
    """One engine of the DiT adds a little to every second channel."""

    def compute_engine(self, engine, addresses):
        super().compute_engine(engine, addresses)
        if engine == "dit.01":
            session, plan = self.engines[engine]
            name = session.get_outputs()[0].name
            made = self.device.array(addresses[name], plan.tensors[name].shape, plan.tensors[name].dtype)
            # Not to whole rows, which a normalisation would take out again.
            made[..., ::2] += np.abs(made).max() * 0.05


def test_every_graph_and_mask_of_right_engines_is_torchs(sparse_bundle):
    executor = open_executor(sparse_bundle, ComputingRunner)
    taken = executor.device.taken
    report = check_engines(executor, network_for(sparse_bundle), FRAMES).report
    assert report.first_diverging is None
    for graph, signature in sparse_bundle.signatures.items():
        compared = {error.tensor for error in report.tensors if error.graph == graph}
        layers = sparse_bundle.stream.preset.network.dit.layers if graph.startswith(DIT) else 0
        masks = {f"{BLOCKS}{layer}" for layer in range(layers)}
        assert compared == {spec.name for spec in signature.graph_outputs} | masks
    assert [error.calls for error in report.tensors if error.tensor == "frames"] == [4, 1]
    assert executor.device.taken <= taken
    assert report.candidate["backend"] == "tensorrt"


def test_a_fault_inside_one_engine_is_found_in_its_graph(sparse_bundle):
    report = check_engines(
        open_executor(sparse_bundle, WrongRunner), network_for(sparse_bundle), FRAMES
    ).report
    assert report.first_diverging == DIT
    right = {error.graph for error in report.tensors if not error.exceeds(report.thresholds)}
    assert {"encode", "decode", "dit_first"} <= right


class TorchRunner(RecordedRunner):
    """Engines of whole graphs, computed by torch in bfloat16, which ONNX Runtime lacks on a CPU."""

    def __init__(self, device, bundle, network):
        super().__init__(device)
        self.stages, self.signatures, self.dtype_of = (
            TorchStages(network, bundle.stream),
            bundle.signatures,
            bundle.dtype_of,
        )

    def compute_engine(self, engine, addresses):
        signature = self.signatures[engine]
        specs = {spec.name: spec for spec in (*signature.graph_inputs, *signature.graph_outputs)}
        arrays = {
            name: self.device.array(address, specs[name].shape, self.dtype_of(specs[name]))
            for name, address in addresses.items()
        }
        for name, made in self.stages.run(engine, arrays).items():
            arrays[name][...] = made


def one_engine_a_graph(bundle):
    """Plans as for graphs without custom nodes, of the signatures alone."""
    plans = {}
    for graph, signature in bundle.signatures.items():
        inputs, outputs = (
            tuple(spec.name for spec in specs) for specs in (signature.graph_inputs, signature.graph_outputs)
        )
        tensors = {
            spec.name: PlanTensor(spec.name, bundle.dtype_of(spec), spec.shape, None, *lives)
            for specs, lives in ((signature.graph_inputs, (BEFORE, 0)), (signature.graph_outputs, (0, 1)))
            for spec in specs
        }
        plans[graph] = SegmentPlan(graph, (EngineStep(graph, inputs, outputs),), tensors, inputs, outputs)
    return plans


def test_bfloat16_engines_are_compared_in_bfloat16(dense_bundle):
    bundle = replace(dense_bundle, precision="bf16")
    network, device = network_for(dense_bundle, torch.bfloat16), DeviceDouble()
    runner = TorchRunner(device, bundle, network)
    executor = TensorRTExecutor(bundle, one_engine_a_graph(bundle), runner, device)
    report = check_engines(executor, network, 13).report
    assert report.precision == "bf16"
    by_graph = [error for error in report.tensors if error.graph != "end to end"]
    assert {error.max_absolute for error in by_graph} == {0.0}
    assert report.first_diverging is None


@pytest.fixture(scope="module")
def engines(dense_bundle, tmp_path_factory):
    target = Target(ONNXRUNTIME, VERSION, GPU.capability)
    return build_engines(tmp_path_factory.mktemp("engines"), dense_bundle, target, notify=ignore)


@pytest.fixture
def machine(monkeypatch):
    """A GPU in host memory, and the sessions of the onnxruntime flavour on it."""
    runner = lambda engines, device: QueuedRunner(engines, device, provider="CPUExecutionProvider")  # noqa: E731
    monkeypatch.setattr(tensorrt_open, "current_device", lambda: GPU)
    monkeypatch.setattr(tensorrt_open, "CudaDevice", lambda index: HostDevice(name="a GPU", capability="9.0"))
    monkeypatch.setattr(tensorrt_open, "_runner", runner)
    for name in ("supported_version", "installed_version"):
        monkeypatch.setattr(named_engines, name, lambda flavour: VERSION)


def test_the_command_compares_engines_end_to_end(machine, engines, dense_bundle, capfd):
    words = ("parity", dense_bundle.folder, "--engines", engines.folder, "--frames", 13)
    outcome = call(capfd, *words)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("tensorrt against torch, fp32\n")
    assert outcome.out.endswith("\nPASSED\n")
    assert outcome.err.startswith(f"engines {engines.folder.name}")
    report = json.loads(call(capfd, *words, "--flavour", "onnxruntime", "--json").out)
    assert report["candidate"]["engines"] == str(engines.folder)
    assert {row["graph"] for row in report["tensors"]} == {"encode", "dit", "decode", "end to end"}


def test_the_command_finds_engines_by_name_in_the_cache(machine, engines, dense_bundle, capfd, monkeypatch):
    monkeypatch.setattr("flashvsr_trt.cli.export.cache_folder", lambda kind: engines.folder.parent)
    words = ("parity", dense_bundle.folder, "--frames", 5)
    assert call(capfd, *words, "--engines", engines.folder.name).code == 0
    assert call(capfd, *words, "--backend", "tensorrt").code == 0
    assert_refused(call(capfd, *words, "--engines", "absent"), 2, "absent: there is no such folder")


def test_the_command_fails_on_wrong_engines(machine, engines, dense_bundle, capfd, monkeypatch):
    run = QueuedRunner.load

    def load(self, engine, stream):
        loaded = run(self, engine, stream)
        if engine == "decode":
            bind = loaded.binding
            swapped = {"memory.0": "memory.1", "memory.1": "memory.0"}
            loaded.binding = lambda a: bind({swapped.get(name, name): to for name, to in a.items()})
        return loaded

    monkeypatch.setattr(QueuedRunner, "load", load)
    outcome = call(capfd, "parity", dense_bundle.folder, "--engines", engines.folder, "--frames", 13)
    assert outcome.code == 1
    assert outcome.out.endswith("\nFAILED\n")
    assert "diverges in decode" in outcome.err


def test_without_a_gpu_it_is_one_line(engines, dense_bundle, capfd, monkeypatch):
    monkeypatch.setattr(tensorrt_open, "current_device", lambda: None)
    outcome = call(capfd, "parity", dense_bundle.folder, "--engines", engines.folder)
    assert outcome.out == ""
    assert_refused(outcome, 1, "engines run on an NVIDIA GPU, and there is none here")


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--flavour", "rtx"), 1, "holds onnxruntime engines, and not rtx"),
        (("--bisect",), 2, "an engine has no inside"),
        (("--backend", "onnxruntime"), 2, "belong to --backend tensorrt"),
    ],
)
def test_what_does_not_go_together_is_refused(machine, engines, dense_bundle, capfd, options, code, text):
    outcome = call(capfd, "parity", dense_bundle.folder, "--engines", engines.folder, *options)
    assert_refused(outcome, code, text)


def test_engines_of_another_bundle_are_refused(machine, engines, sparse_bundle, capfd):
    outcome = call(capfd, "parity", sparse_bundle.folder, "--engines", engines.folder)
    assert_refused(outcome, 1, "holds engines of another bundle than")


def test_a_changed_engine_is_refused(machine, engines, dense_bundle, capfd, tmp_path):
    folder = shutil.copytree(engines.folder, tmp_path / "changed")
    path = folder / "decode.engine"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    outcome = call(capfd, "parity", dense_bundle.folder, "--engines", folder)
    assert_refused(outcome, 1, "decode.engine was changed")
