"""The ONNX Runtime executor: a bundle's graphs on any CPU, or on CUDA where that provider is installed.

Every tensor is bound by address: state stays on the device, and new keys and values are written by the graph
into the ring's slots. A slot that is written is not valid in the same step, so the graph never reads it.
"""

import math
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from flashvsr_trt.bundle import PRECISIONS, Bundle
from flashvsr_trt.cache.bundle import bundle_for, weights_bytes
from flashvsr_trt.config.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.config.signatures import (
    DECODE,
    Role,
    StageSignature,
    StreamConfig,
    TensorSpec,
    carried_tensors,
    stage_of,
)
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.memory import MemoryEstimate, estimate_onnxruntime_memory
from flashvsr_trt.notices import Notify
from flashvsr_trt.process_memory import free_host_memory
from flashvsr_trt.runtime.choose_tiles import choose_tiles
from flashvsr_trt.runtime.executor import DeviceTensors, GraphExecutor, HostArrays
from flashvsr_trt.runtime.frames import NumpyArrays
from flashvsr_trt.runtime.onnxruntime.session import (
    COMPUTE_TYPES,
    CPU,
    CUDA,
    check_precision,
    onnxruntime,
    onnxruntime_errors,
    open_session,
    session_options,
)
from flashvsr_trt.runtime.request import ExecutorRequest
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.tiles import TiledExecutor

PROVIDERS = {"cpu": CPU, "cuda": CUDA}


@dataclass(frozen=True)
class OrtTensor:
    """A tensor on the executor's device, or a part of one along its first axis."""

    owner: onnxruntime.OrtValue
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def pointer(self) -> int:
        return self.owner.data_ptr() + self.offset

    def part(self, rows: slice) -> "OrtTensor":
        """Rows of the first axis, in place."""
        start, stop, _ = rows.indices(self.shape[0])
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        shape = (stop - start, *self.shape[1:])
        return OrtTensor(self.owner, self.dtype, shape, self.offset + start * row_bytes)

    def parts(self, rows: int) -> "list[OrtTensor]":
        """All of it, by so many rows."""
        return [self.part(slice(start, start + rows)) for start in range(0, self.shape[0], rows)]


@dataclass
class OrtState:
    """What is carried from call to call, by the names of the signatures.

    A graph reads `current` and writes `following`, which then change places; the ring is in `current` alone.
    """

    current: dict[str, OrtTensor]
    following: dict[str, OrtTensor]

    def target(self, carried: TensorSpec, step: RingStep | None) -> OrtTensor:
        """Where the output goes that becomes a carried tensor: into a step's slots, if that is the ring."""
        if step and carried.role is Role.RING:
            return self.current[carried.name].part(step.slots)
        return self.following[carried.name]

    def advance(self, signature: StageSignature) -> None:
        """What a graph wrote is what is read next."""
        for spec in signature.state:
            name = spec.name
            self.current[name], self.following[name] = self.following[name], self.current[name]


class OnnxRuntimeExecutor(GraphExecutor):
    """Runs the graphs of a bundle.

    Args:
        bundle: of precision fp32 or fp16.
        device: "cpu", "cuda" or "cuda:N".
        threads: of one operator; see `session_options`.

    Raises:
        DeviceError: the provider is not installed, or cannot run the bundle's precision.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int | None = None) -> None:
        check_precision(bundle)
        self.bundle, self.stream, self.signatures = bundle, bundle.stream, bundle.signatures
        self.device, self.device_index = _parse_device(device)
        self.arrays = NumpyArrays(is_device=self.device == "cpu")
        self.threads = threads
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        self.seconds: dict[str, float] = defaultdict(float)

    def new_state(self) -> OrtState:
        """Zeroed state, allocated once per clip."""
        carried = carried_tensors(self.signatures)
        state = [spec for spec in carried if spec.role is Role.STATE]
        return OrtState(*({spec.name: self._zeros(spec) for spec in specs} for specs in (carried, state)))

    def reset_state(self, state: OrtState) -> None:
        for tensors in vars(state).values():
            for tensor in tensors.values():
                tensor.owner.update_inplace(np.zeros(tensor.shape, tensor.dtype))

    def run_graph(
        self, graph: str, arrays: HostArrays, tensors: DeviceTensors, state: OrtState, step: RingStep | None
    ) -> DeviceTensors:
        """Decoded frames are written into an array of the host."""
        signature = self.signatures[graph]
        given = {name: _join(value) if isinstance(value, list) else value for name, value in tensors.items()}
        carried = {spec.name: state.current[spec.name] for spec in signature.carried}
        on_host = stage_of(graph) == DECODE
        results: dict[str, Any] = {spec.name: self._empty(spec, on_host) for spec in signature.results}
        following = {
            spec.name: state.target(spec.becomes, step) for spec in signature.graph_outputs if spec.becomes
        }
        self._run(graph, {**arrays, **given, **carried}, {**results, **following})
        state.advance(signature)
        if step:
            results["latent"] = results["latent"].parts(UNIT_LATENT_FRAMES)
        return results

    def stage_seconds(self) -> dict[str, float]:
        return dict(self.seconds)

    def describe(self) -> dict[str, Any]:
        return {
            "backend": "onnxruntime",
            "device": self.device,
            "dtype": self.bundle.compute,
            "onnxruntime": onnxruntime.__version__,
            "bundle": str(self.bundle.folder),
        }

    def _run(
        self,
        graph: str,
        inputs: Mapping[str, np.ndarray | OrtTensor],
        outputs: Mapping[str, np.ndarray | OrtTensor],
    ) -> None:
        session = self._session(graph)
        started = time.perf_counter()
        binding = session.io_binding()
        for name, tensor in inputs.items():
            if isinstance(tensor, np.ndarray):
                binding.bind_cpu_input(name, np.ascontiguousarray(tensor))
            else:
                binding.bind_input(name, *self._place(tensor))
        for name, tensor in outputs.items():
            binding.bind_output(name, *self._place(tensor))
        with onnxruntime_errors(f"ONNX Runtime failed in {graph}"):
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        self.seconds[stage_of(graph)] += time.perf_counter() - started

    def _place(self, tensor: np.ndarray | OrtTensor) -> tuple:
        """Device, its index, dtype, shape and address, as ONNX Runtime binds them."""
        if isinstance(tensor, np.ndarray):
            return "cpu", 0, tensor.dtype, tensor.shape, tensor.ctypes.data
        return self.device, self.device_index, tensor.dtype, tensor.shape, tensor.pointer

    def _session(self, graph: str) -> onnxruntime.InferenceSession:
        if graph not in self.sessions:
            provider = PROVIDERS[self.device]
            chosen = (provider, {"device_id": self.device_index}) if self.device == "cuda" else provider
            path = self.bundle.graph_path(graph)
            options = session_options(threads=self.threads)
            self.sessions[graph] = open_session(path, str(path), options, chosen)
        return self.sessions[graph]

    def _zeros(self, spec: TensorSpec) -> OrtTensor:
        zeros = np.zeros(spec.shape, self.bundle.dtype_of(spec))
        owner = onnxruntime.OrtValue.ortvalue_from_numpy(zeros, self.device, self.device_index)
        return OrtTensor(owner, zeros.dtype, spec.shape)

    def _empty(self, spec: TensorSpec, on_host: bool) -> OrtTensor | np.ndarray:
        dtype = np.dtype(self.bundle.dtype_of(spec))
        if on_host:
            return np.empty(spec.shape, dtype)
        owner = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            spec.shape, dtype, self.device, self.device_index
        )
        return OrtTensor(owner, dtype, spec.shape)


def _join(units: list[OrtTensor]) -> OrtTensor | np.ndarray:
    """All units' tensors as one; several units meet once a clip, so by way of the host."""
    return units[0] if len(units) == 1 else np.concatenate([unit.owner.numpy() for unit in units])


def open_onnxruntime_executor(
    request: ExecutorRequest, notify: Notify
) -> OnnxRuntimeExecutor | TiledExecutor:
    """The factory of `runtime.backends`: the cached bundle of the stream, in float32 unless float16 is asked.

    Raises:
        DeviceError: the device or dtype is not one that ONNX Runtime runs here, or nothing fits.
        UsageError: `vram` on a GPU, or as `choose_tiles`.
        WeightsError, BundleError: as finding the weights and exporting do.
    """
    dtype = "float32" if request.dtype == "auto" else request.dtype
    if dtype not in COMPUTE_TYPES:
        raise DeviceError(
            f"ONNX Runtime runs {' and '.join(COMPUTE_TYPES)}, and not {dtype}; choose another --dtype"
        )
    device = "cpu" if request.device == "auto" else request.device
    _parse_device(device)
    precision = next(name for name, compute in PRECISIONS.items() if compute == dtype)
    stream, tile = request.stream, request.tiles.tile
    plan = TilePlan(stream.geometry, tile) if isinstance(tile, tuple) else None
    if device == "cpu":
        weights = weights_bytes(plan.tile_stream(stream) if plan else stream, request.weights, precision)

        def estimate(stream: StreamConfig, plan: TilePlan | None) -> MemoryEstimate:
            return estimate_onnxruntime_memory(stream, plan, weights, dtype)

        free = free_host_memory()
        plan = choose_tiles(stream, request.tiles, estimate, free, "this machine", notify, fixed=True)
    elif request.tiles.vram:
        raise UsageError(
            f"--vram is not for --backend onnxruntime on {device}: what it takes there is not known before; "
            "use --backend tensorrt --flavour onnxruntime, or --backend torch"
        )
    bundle = bundle_for(plan.tile_stream(stream) if plan else stream, request.weights, precision, notify)
    executor = OnnxRuntimeExecutor(bundle, device)
    return TiledExecutor(executor, stream, plan) if plan else executor


def _parse_device(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    if kind not in PROVIDERS or (index and not index.isdigit()):
        raise DeviceError(f"ONNX Runtime runs on cpu, cuda or cuda:N here, and not on '{device}'")
    if PROVIDERS[kind] not in onnxruntime.get_available_providers():
        raise DeviceError(
            f"this ONNX Runtime has no {PROVIDERS[kind]}: pip install onnxruntime-gpu in place of onnxruntime"
        )
    return kind, int(index or 0)
