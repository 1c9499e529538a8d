"""The PyTorch executor: the reference every other backend is compared with, on CPU or CUDA."""

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil
import torch

from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.memory import estimate_memory
from flashvsr_trt.model.attention import LayerCache
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.model.stages import Decode, Denoise, Encode
from flashvsr_trt.model.state_shapes import state_shapes
from flashvsr_trt.model.weights import describe, load_weights, resolve_weights
from flashvsr_trt.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.runtime.backends import ExecutorRequest, Notify
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.signatures import (
    COMPUTE,
    StreamConfig,
    TensorSpec,
    cache_specs,
    decode_signature,
    encode_signature,
)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class TorchState:
    """What is carried from call to call."""

    encode: list[torch.Tensor]
    ring: list[LayerCache]
    memory: list[torch.Tensor]


@dataclass
class StageClock:
    """Seconds spent in each stage: CUDA events on a GPU, so that timing does not make the host wait."""

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    open_events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Time the body as part of `stage`."""
        if self.device.type == "cuda":
            events = tuple(torch.cuda.Event(enable_timing=True) for _ in range(2))
            events[0].record()
            yield
            events[1].record()
            self.open_events.append((stage, *events))
        else:
            started = time.perf_counter()
            yield
            self.seconds[stage] += time.perf_counter() - started

    def read(self) -> dict[str, float]:
        """All seconds so far. Waits for the device only if it is still busy with a measured call."""
        for stage, begin, end in self.open_events:
            end.synchronize()
            self.seconds[stage] += begin.elapsed_time(end) / 1000
        self.open_events.clear()
        return dict(self.seconds)


class TorchExecutor:
    """Runs the stages of `flashvsr_trt.model.stages`. Implements `runtime.executor.Executor`."""

    def __init__(self, network: Network, stream: StreamConfig) -> None:
        self.stream = stream
        weight = network.dit.head.head.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.encode_stage = Encode(network, stream)
        self.dit_stage = Denoise(network, stream)
        self.decode_stage = Decode(network, stream)
        self.clock = StageClock(self.device)

    def new_state(self) -> TorchState:
        """Zeroed state, allocated once per clip.

        Raises:
            DeviceError: the device has not enough memory for it.
        """
        preset = self.stream.preset
        layers, slots = range(preset.network.dit.layers), preset.attention.ring_slots
        try:
            return TorchState(
                encode=[self._zeros(spec) for spec in encode_signature(self.stream).state],
                ring=[
                    LayerCache(*map(self._zeros, cache_specs(self.stream, layer, slots, "ring")))
                    for layer in layers
                ],
                memory=[self._zeros(spec) for spec in decode_signature(self.stream).state],
            )
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"{self.device} has too little memory for this size: {error}") from error

    @torch.inference_mode()
    def encode(self, frames: np.ndarray, first: bool, state: TorchState) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Executor.encode`."""
        with self.clock.measure("encode"):
            pixels = self._to_device(frames)
            flag = torch.tensor(first, device=self.device)
            condition, tokens, *state.encode = self.encode_stage(pixels, flag, *state.encode)
        return condition, tokens

    @torch.inference_mode()
    def dit(
        self,
        noise: np.ndarray,
        tokens: list[torch.Tensor],
        rope: tuple[np.ndarray, np.ndarray],
        step: RingStep,
        state: TorchState,
    ) -> list[torch.Tensor]:
        """See `Executor.dit`. The new K/V overwrites the step's slots of the ring."""
        with self.clock.measure("dit"):
            inputs = [self._to_device(array) for array in (*rope, step.valid)]
            latent, new = self.dit_stage(self._to_device(noise), torch.cat(tokens), *inputs, state.ring)
            for ring, layer_new in zip(state.ring, new, strict=True):
                ring.keys[step.slots] = layer_new.keys
                ring.values[step.slots] = layer_new.values
                ring.key_means[step.slots] = layer_new.key_means
        return list(latent.split(UNIT_LATENT_FRAMES))

    @torch.inference_mode()
    def decode(self, latent: torch.Tensor, condition: torch.Tensor, state: TorchState) -> np.ndarray:
        """See `Executor.decode`."""
        with self.clock.measure("decode"):
            frames, state.memory = self.decode_stage(latent, condition, state.memory)
        return frames.cpu().numpy()

    def stage_seconds(self) -> dict[str, float]:
        """See `Executor.stage_seconds`."""
        return self.clock.read()

    def describe(self) -> dict[str, Any]:
        """See `Executor.describe`."""
        on_gpu = self.device.type == "cuda"
        return {
            "backend": "torch",
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            "dtype": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
        }

    def _zeros(self, spec: TensorSpec) -> torch.Tensor:
        dtype = self.dtype if spec.dtype == COMPUTE else getattr(torch, spec.dtype)
        return torch.zeros(spec.shape, dtype=dtype, device=self.device)

    def _to_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


def open_torch_executor(request: ExecutorRequest, notify: Notify) -> TorchExecutor:
    """Choose device and dtype, check that the stream fits, load the weights.

    Raises:
        UsageError: an unknown device or dtype.
        DeviceError: no such device, or too little memory on it.
        WeightsError: no weights, or not the ones the preset needs.
    """
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    network = request.stream.preset.network
    source = resolve_weights(request.weights, network)
    check_memory(request.stream, device, dtype)
    notify(describe(source))
    weights = load_weights(source, network, dtype)
    return TorchExecutor(build_network(network, weights, device, dtype), request.stream)


def choose_device(name: str) -> torch.device:
    """ "auto" is the first GPU, or the CPU; anything else as torch spells it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError(f"device '{name}' is not known; use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise DeviceError(
            f"device '{name}' is not here ({found} GPUs found); use --device cpu, or see `doctor`"
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    if name not in DTYPES:
        raise UsageError(f"dtype '{name}' is not supported; use auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def check_memory(stream: StreamConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a stream that would not fit, before anything is loaded.

    Raises:
        DeviceError: with the estimate, what is free, and what to change.
    """
    shapes = state_shapes(stream.preset.network)
    parameters = sum(math.prod(shape) for part in shapes.values() for shape in part.values())
    estimate = estimate_memory(stream, parameters, str(dtype).removeprefix("torch."))
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    if estimate.total > free:
        height, width = stream.geometry.target
        raise DeviceError(
            f"{width}x{height} with preset {stream.preset.name} needs about {estimate.total / 2**30:.1f} GiB "
            f"(weights {estimate.weights / 2**30:.1f}, state {estimate.state / 2**30:.1f}, working "
            f"{estimate.working / 2**30:.1f}) and {device} has {free / 2**30:.1f} GiB free; use a smaller "
            "input or scale, a narrower --dtype, or preset nano"
        )
