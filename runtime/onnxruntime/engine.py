"""Segments as ONNX Runtime sessions behind `EngineRunner`: loading, binding by address, running. No torch.

On the GPU a session runs on the executor's stream, takes scratch memory from the executor's arena, waits for
nothing, and copies nothing to or from the host, so a CUDA graph can hold its run.
"""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

from flashvsr_trt.config.signatures import DIT, stage_of
from flashvsr_trt.engines.manifest import BUILD_AGAIN, WEIGHTS_KEY, EngineSet
from flashvsr_trt.errors import EngineError, MissingDependencyError
from flashvsr_trt.runtime.onnxruntime.memory import MeasuringRegion, ScratchRegion, SessionMemory
from flashvsr_trt.runtime.onnxruntime.session import CUDA, onnxruntime, onnxruntime_errors, session_options
from flashvsr_trt.runtime.onnxruntime.weights import SharedWeights
from flashvsr_trt.runtime.tensorrt.aot_kernels import AotKernels
from flashvsr_trt.runtime.tensorrt.arena import place_side_by_side
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice
from flashvsr_trt.runtime.tensorrt.engine_runner import ReportLayer, check_bound

TABLE_MAKER = "GatherSliceToSplitFusion"
"""An optimiser that makes slices one split of unequal parts again, whose table lies in host memory."""

_NO_LIMIT = -1

_memories: dict[int, SessionMemory] = {}
"""By GPU: ONNX Runtime takes one allocator a process and GPU, and keeps it."""


class OnnxRuntimeRunner(AotKernels):
    """The sessions and kernels of one folder. Implements `runtime.tensorrt.engine_runner.EngineRunner`.

    Args:
        index: of the GPU, as CUDA numbers them.
        provider: CUDA, or CPU for the same sessions on memory of the host.

    Raises:
        MissingDependencyError: the installed package has not the provider.
        EngineError, UsageError, DeviceError: as `AotKernels`.
    """

    keeps_host_memory = False

    def __init__(self, engines: EngineSet, device: CudaDevice, index: int = 0, provider: str = CUDA) -> None:
        if provider == CUDA:
            # CUDA's and cuDNN's libraries lie in their own wheels, where the loader does not look.
            onnxruntime.preload_dlls()
        if provider not in onnxruntime.get_available_providers():
            raise MissingDependencyError(
                f"this onnxruntime {onnxruntime.__version__} has no {provider}: pip uninstall onnxruntime, "
                "then pip install --force-reinstall onnxruntime-gpu"
            )
        super().__init__(engines)
        self.engines, self.device, self.index, self.provider = engines, device, index, provider
        self.memory = _session_memory(device, index) if provider == CUDA else None
        self.weights: SharedWeights | None = None
        plans = engines.manifest.plans.values()
        self.steps = {step.engine: (plan, step) for plan in plans for step in plan.engine_steps}

    def keep_compiled(self) -> None:
        """Nothing is compiled that could be kept."""

    def load(self, engine: str, stream: int) -> "SessionEngine":
        """A session belongs to its stream; its scratch memory is measured here."""
        content = self.engines.read_engine(engine)
        if self.weights is None:
            self.weights = SharedWeights(self.device, self.engines.folder, stream)
        what = f"ONNX Runtime cannot load {self.engines.engine_path(engine)}"
        with (
            onnxruntime_errors(what, BUILD_AGAIN, EngineError),
            self.memory.serving(None) if self.memory else nullcontext(),
        ):
            session = onnxruntime.InferenceSession(
                content,
                self._options(),
                providers=self._providers(engine, stream),
                disabled_optimizers=[TABLE_MAKER],
            )
        _check_provider(engine, session, self.provider)
        loaded = SessionEngine(self, self.weights, engine, session, stream)
        loaded.measure()
        return loaded

    def _options(self) -> Any:
        options = session_options(self.engines.folder, threads=1)
        # Each run then takes the same memory in the same order; a plan made of the first would take it twice.
        options.enable_mem_pattern = False
        options.inter_op_num_threads = 1
        # A clip comes out the same each time, with CUDA graphs and without.
        options.use_deterministic_compute = True
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if self.memory:
            options.add_session_config_entry("session.use_env_allocators", "1")
        return options

    def _takes_tf32(self, engine: str) -> bool:
        """Whether products in float32 may have factors of 10 bits: those around float16 convolutions only.

        Without TF32 ONNX Runtime bars tensor cores to convolutions in float16 as well (its
        `CreateCudnnFeExecutionPlan`). The DiT has no convolution, and its block scores are float32.
        """
        plan, _ = self.steps[engine]
        return self.engines.manifest.key.precision != "fp32" and stage_of(plan.graph) != DIT

    def _providers(self, engine: str, stream: int) -> list:
        if self.provider != CUDA:
            return [self.provider]
        settings = {
            "device_id": str(self.index),
            "user_compute_stream": str(stream),
            "use_tf32": str(int(self._takes_tf32(engine))),
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "cudnn_conv_use_max_workspace": "1",
        }
        return [(CUDA, settings)]


class SessionEngine:
    """A session and the matrices that it reads. Implements `runtime.tensorrt.engine_runner.Engine`."""

    def __init__(
        self, owner: OnnxRuntimeRunner, weights: SharedWeights, engine: str, session: Any, stream: int
    ) -> None:
        self.owner, self.weights, self.stream = owner, weights, stream
        plan, self.step = owner.steps[engine]
        self.tensors = plan.tensors
        self.session: Any = session
        self.places = json.loads(session.get_modelmeta().custom_metadata_map[WEIGHTS_KEY])
        self.matrices = {name: weights.take(place) for name, place in self.places.items()}
        self.memory_bytes = 0
        self.options = onnxruntime.RunOptions()
        self.options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def measure(self) -> None:
        """Run twice on made-up tensors: the first run sets up, the second says how much it takes."""
        if self.owner.memory is None:
            return
        device = self.owner.device
        names = (*self.step.inputs, *self.step.outputs)
        layout = place_side_by_side({name: self.tensors[name].size_bytes for name in names})
        block = device.allocate(layout.size)
        try:
            device.zero(block, layout.size, self.stream)
            binding = self.binding({name: block + offset for name, offset in layout.offsets.items()})
            region = MeasuringRegion(device)
            for source in (None, region):
                with self.owner.memory.serving(source):
                    self.run(binding)
                device.synchronize(self.stream)
            if region.offsets:
                raise EngineError(f"{self.step.engine} keeps memory of every run, which no arena can hold")
            self.memory_bytes = region.gaps.peak
        finally:
            device.synchronize(self.stream)
            device.free(block)

    def new_context(self, memory: int, report: ReportLayer | None) -> "SessionContext":
        """ONNX Runtime times no layers on a stream: `report` gets nothing."""
        return SessionContext(self, memory)

    def close(self) -> None:
        self.session = None
        for place in self.places.values():
            self.weights.give(place)
        self.places = {}

    def binding(self, addresses: Mapping[str, int]) -> Any:
        """Inputs and outputs at their addresses, the matrices as well."""
        binding = self.session.io_binding()
        kind = "cuda" if self.owner.provider == CUDA else "cpu"
        index = self.owner.index if self.owner.provider == CUDA else 0
        for name, address in self.matrices.items():
            place = self.places[name]
            binding.bind_input(name, kind, index, np.dtype(place["dtype"]), place["shape"], address)
        for names, bind in ((self.step.inputs, binding.bind_input), (self.step.outputs, binding.bind_output)):
            for name in names:
                tensor = self.tensors[name]
                bind(name, kind, index, np.dtype(tensor.dtype), tensor.shape, addresses[name])
        return binding

    def run(self, binding: Any) -> None:
        """Put one run on the stream. Raises EngineError with ONNX Runtime's message."""
        with onnxruntime_errors(
            f"{self.step.engine} failed", "see `flashvsr-trt engines verify`", EngineError
        ):
            self.session.run_with_iobinding(binding, self.options)


class SessionContext:
    """A session with its scratch memory. Implements `runtime.tensorrt.engine_runner.EngineContext`."""

    def __init__(self, engine: SessionEngine, memory: int) -> None:
        self.engine, self.memory = engine, memory
        self.bindings: dict[tuple[int, ...], Any] = {}
        self.bound: Any = None

    def bind(self, addresses: Mapping[str, int]) -> None:
        step = self.engine.step
        check_bound(step.engine, {*step.inputs, *step.outputs}, addresses)
        key = tuple(addresses.values())
        if key not in self.bindings:
            self.bindings[key] = self.engine.binding(addresses)
        self.bound = self.bindings[key]

    def enqueue(self, stream: int) -> None:
        engine, memory = self.engine, self.engine.owner.memory
        if stream != engine.stream:
            raise EngineError(f"{engine.step.engine} was loaded for another stream than it is to run on")
        if memory is None:
            engine.run(self.bound)
            return
        region = ScratchRegion(self.memory, engine.memory_bytes)
        with memory.serving(region):
            engine.run(self.bound)
        if region.gaps.taken:
            raise EngineError(f"{engine.step.engine} keeps scratch memory beyond its run")

    def can_capture(self, stream: int) -> bool:
        """Every node is on the GPU, or it would not have been loaded."""
        return True


def _session_memory(device: CudaDevice, index: int) -> SessionMemory:
    if index not in _memories:
        memory = SessionMemory(device)
        place = onnxruntime.OrtMemoryInfo(
            "Cuda", onnxruntime.OrtAllocatorType.ORT_DEVICE_ALLOCATOR, index, onnxruntime.OrtMemType.DEFAULT
        )
        options = memory.pointers | {"device_id": str(index)}
        unbounded = onnxruntime.OrtArenaCfg(0, _NO_LIMIT, _NO_LIMIT, _NO_LIMIT)
        with onnxruntime_errors("ONNX Runtime takes no allocator", "use another --flavour"):
            onnxruntime.create_and_register_allocator_v2(CUDA, place, options, unbounded)
        _memories[index] = memory
    return _memories[index]


def _check_provider(engine: str, session: Any, provider: str) -> None:
    """Raise EngineError if a node was given to another provider, which would compute it on the host."""
    strays = [
        f"{node.name} ({node.op_type})"
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != provider
        for node in part.get_nodes()
    ]
    if strays:
        raise EngineError(
            f"{engine} has {len(strays)} nodes that {provider} cannot run: {', '.join(strays[:5])}; "
            "build with another --flavour"
        )
