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
from flashvsr_trt.cache.bundle import bundle_for
from flashvsr_trt.config.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.config.signatures import DECODE, DIT, DIT_FIRST, ENCODE, TensorSpec, next_name
from flashvsr_trt.errors import DeviceError, MissingDependencyError
from flashvsr_trt.memory import check_fits, estimate_onnxruntime_memory
from flashvsr_trt.runtime.backends import ExecutorRequest, Notify
from flashvsr_trt.runtime.onnxruntime.errors import onnxruntime_errors
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.torch.host_memory import free_host_memory

try:
    import onnxruntime
except ImportError as error:
    raise MissingDependencyError(
        "the onnxruntime backend needs ONNX Runtime: pip install 'flashvsr-trt[cpu]'"
    ) from error

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

COMPUTE_TYPES = ("float32", "float16")
"""What numpy and ONNX Runtime's CPU kernels can both hold: not bfloat16."""

_FATAL_ONLY = 4


@dataclass(frozen=True)
class OrtTensor:
    """A tensor on the executor's device, or a part of one along its first axis."""

    owner: onnxruntime.OrtValue
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def pointer(self) -> int:
        """Address of the first element."""
        return self.owner.data_ptr() + self.offset

    def part(self, rows: slice) -> "OrtTensor":
        """Rows of the first axis, in place."""
        start, stop, _ = rows.indices(self.shape[0])
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        shape = (stop - start, *self.shape[1:])
        return OrtTensor(self.owner, self.dtype, shape, self.offset + start * row_bytes)


@dataclass
class OrtState:
    """What is carried from call to call, by the names of the signatures.

    A graph reads `current` and writes `following`, which then change places.
    """

    current: dict[str, OrtTensor]
    following: dict[str, OrtTensor]
    ring: dict[str, OrtTensor]


class OnnxRuntimeExecutor:
    """Runs the graphs of a bundle. Implements `runtime.executor.Executor`.

    Args:
        bundle: of precision fp32 or fp16.
        device: "cpu", "cuda" or "cuda:N".
        threads: of one operator; None is ONNX Runtime's choice.

    Raises:
        DeviceError: the provider is not installed, or cannot run the bundle's precision.
    """

    def __init__(self, bundle: Bundle, device: str = "cpu", threads: int | None = None) -> None:
        if bundle.compute not in COMPUTE_TYPES:
            raise DeviceError(
                f"ONNX Runtime cannot run the {bundle.precision} bundle {bundle.folder}; export it with "
                "--precision fp32"
            )
        self.bundle, self.stream = bundle, bundle.stream
        self.device, self.device_index = _parse_device(device)
        self.threads = threads
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}
        self.seconds: dict[str, float] = defaultdict(float)

    def new_state(self) -> OrtState:
        """Zeroed state, allocated once per clip."""
        signatures = self.bundle.signatures
        carried = signatures[ENCODE].state + signatures[DECODE].state
        ring = [spec for spec in signatures[DIT].inputs if spec.name.startswith("ring_")]
        return OrtState(
            *({spec.name: self._zeros(spec) for spec in specs} for specs in (carried, carried, ring))
        )

    def reset_state(self, state: OrtState) -> None:
        """See `Executor.reset_state`."""
        for tensors in vars(state).values():
            for tensor in tensors.values():
                tensor.owner.update_inplace(np.zeros(tensor.shape, tensor.dtype))

    def encode(self, frames: np.ndarray, first: bool, state: OrtState) -> tuple[OrtTensor, OrtTensor]:
        """See `Executor.encode`."""
        signature = self.bundle.signatures[ENCODE]
        made = {spec.name: self._empty(spec) for spec in signature.outputs}
        inputs = {"frames": frames, "first": np.array(first)}
        self._run_with_state(ENCODE, inputs, made, state)
        return made["condition"], made["tokens"]

    def dit(
        self,
        noise: np.ndarray,
        tokens: list[OrtTensor],
        rope: tuple[np.ndarray, np.ndarray],
        step: RingStep,
        state: OrtState,
    ) -> list[OrtTensor]:
        """See `Executor.dit`. The new K/V is written into the step's slots of the ring."""
        graph = DIT if len(tokens) == 1 else DIT_FIRST
        signature = self.bundle.signatures[graph]
        latent = self._empty(signature.outputs[0])
        outputs = {"latent": latent}
        for spec in signature.outputs[1:]:
            outputs[spec.name] = state.ring[spec.name.replace("new_", "ring_", 1)].part(step.slots)
        inputs = {
            "noise": noise,
            "tokens": self._join(tokens),
            "time_cos": rope[0],
            "time_sin": rope[1],
            "slot_valid": step.valid,
        }
        self._run(graph, inputs | state.ring, outputs)
        starts = range(0, latent.shape[0], UNIT_LATENT_FRAMES)
        return [latent.part(slice(start, start + UNIT_LATENT_FRAMES)) for start in starts]

    def decode(self, latent: OrtTensor, condition: OrtTensor, state: OrtState) -> np.ndarray:
        """See `Executor.decode`."""
        frames = np.empty(self.bundle.signatures[DECODE].outputs[0].shape, np.uint8)
        outputs = {"frames": frames}
        self._run_with_state(DECODE, {"latent": latent, "condition": condition}, outputs, state)
        return frames

    def stage_seconds(self) -> dict[str, float]:
        """See `Executor.stage_seconds`."""
        return dict(self.seconds)

    def describe(self) -> dict[str, Any]:
        """See `Executor.describe`."""
        return {
            "backend": "onnxruntime",
            "device": self.device,
            "dtype": self.bundle.compute,
            "onnxruntime": onnxruntime.__version__,
            "bundle": str(self.bundle.folder),
        }

    def _run_with_state(
        self,
        graph: str,
        inputs: Mapping[str, np.ndarray | OrtTensor],
        outputs: Mapping[str, np.ndarray | OrtTensor],
        state: OrtState,
    ) -> None:
        names = [spec.name for spec in self.bundle.signatures[graph].state]
        self._run(
            graph,
            dict(inputs) | {name: state.current[name] for name in names},
            dict(outputs) | {next_name(name): state.following[name] for name in names},
        )
        for name in names:
            state.current[name], state.following[name] = state.following[name], state.current[name]

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
                binding.bind_input(
                    name, self.device, self.device_index, tensor.dtype, tensor.shape, tensor.pointer
                )
        for name, tensor in outputs.items():
            if isinstance(tensor, np.ndarray):
                binding.bind_output(name, "cpu", 0, tensor.dtype, tensor.shape, tensor.ctypes.data)
            else:
                binding.bind_output(
                    name, self.device, self.device_index, tensor.dtype, tensor.shape, tensor.pointer
                )
        with onnxruntime_errors(f"ONNX Runtime failed in {graph}"):
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        self.seconds[DIT if graph == DIT_FIRST else graph] += time.perf_counter() - started

    def _session(self, graph: str) -> onnxruntime.InferenceSession:
        if graph not in self.sessions:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = _FATAL_ONLY
            if self.threads:
                options.intra_op_num_threads = self.threads
            provider = PROVIDERS[self.device]
            chosen = (provider, {"device_id": self.device_index}) if self.device == "cuda" else provider
            path = self.bundle.graph_path(graph)
            with onnxruntime_errors(f"ONNX Runtime cannot load {path}"):
                self.sessions[graph] = onnxruntime.InferenceSession(path, options, providers=[chosen])
        return self.sessions[graph]

    def _zeros(self, spec: TensorSpec) -> OrtTensor:
        zeros = np.zeros(spec.shape, self.bundle.dtype_of(spec))
        owner = onnxruntime.OrtValue.ortvalue_from_numpy(zeros, self.device, self.device_index)
        return OrtTensor(owner, zeros.dtype, spec.shape)

    def _empty(self, spec: TensorSpec) -> OrtTensor:
        dtype = np.dtype(self.bundle.dtype_of(spec))
        owner = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            spec.shape, dtype, self.device, self.device_index
        )
        return OrtTensor(owner, dtype, spec.shape)

    def _join(self, tokens: list[OrtTensor]) -> OrtTensor | np.ndarray:
        """All units' tokens as one; several units meet once a clip, so by way of the host."""
        if len(tokens) == 1:
            return tokens[0]
        return np.concatenate([unit.owner.numpy() for unit in tokens])


def open_onnxruntime_executor(request: ExecutorRequest, notify: Notify) -> OnnxRuntimeExecutor:
    """The factory of `runtime.backends`: the cached bundle of the stream, in float32 unless float16 is asked.

    Raises:
        DeviceError: the device or dtype is not one that ONNX Runtime runs here.
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
    bundle = bundle_for(request.stream, request.weights, precision, notify)
    if device == "cpu":
        weights = bundle.weights.file.size_bytes
        check_fits(
            request.stream,
            lambda smaller: estimate_onnxruntime_memory(smaller, weights, dtype),
            free_host_memory(),
            "this machine",
        )
    return OnnxRuntimeExecutor(bundle, device)


def _parse_device(device: str) -> tuple[str, int]:
    kind, _, index = device.partition(":")
    if kind not in PROVIDERS or (index and not index.isdigit()):
        raise DeviceError(f"ONNX Runtime runs on cpu, cuda or cuda:N here, and not on '{device}'")
    if PROVIDERS[kind] not in onnxruntime.get_available_providers():
        raise DeviceError(
            f"this ONNX Runtime has no {PROVIDERS[kind]}: pip install onnxruntime-gpu in place of onnxruntime"
        )
    return kind, int(index or 0)
