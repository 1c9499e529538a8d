"""The PyTorch executor: the reference every other backend is compared with, on CPU or CUDA."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from flashvsr_trt.errors import DeviceError
from flashvsr_trt.model.attention import LayerCache
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.stages import Decode, Denoise, Encode
from flashvsr_trt.presets import UNIT_LATENT_FRAMES
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
