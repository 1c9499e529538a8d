"""One rank's share of the work: the stages of `model.stages` with their state.

Every rank calls the same method at the same time; what is read and what comes out is on rank 0.
"""

import resource
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from flashvsr_trt.config.presets import LATENT_CHANNELS, UNIT_FRAMES, UNIT_LATENT_FRAMES
from flashvsr_trt.config.signatures import (
    COMPUTE,
    TensorSpec,
    cache_specs,
    decode_signature,
    encode_signature,
)
from flashvsr_trt.kernels.calls import counted_calls, reference_kernels
from flashvsr_trt.model.attention import LayerCache
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.sharding import Sharding, length
from flashvsr_trt.model.stages import Decode, Denoise, Encode
from flashvsr_trt.runtime.distributed.group import Group
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.torch.clock import StageClock

FRAMES_IN, FRAMES_OUT, NOISE = "frames_in", "frames_out", "noise"


@dataclass
class ShardState:
    """What is carried from call to call: this rank's rows, and the K/V ring of its heads."""

    encode: list[torch.Tensor]
    ring: list[LayerCache]
    memory: list[torch.Tensor]

    def size_bytes(self) -> int:
        """Bytes of all of it."""
        return sum(tensor.nbytes for tensor in self.tensors())

    def tensors(self) -> list[torch.Tensor]:
        """All of it, flat."""
        ring = [part for cache in self.ring for part in (cache.keys, cache.values, cache.key_means)]
        return [*self.encode, *ring, *self.memory]


class Shard:
    """The executor's methods on every rank. `attention` is one of `backends.ATTENTIONS`."""

    def __init__(self, network: Network, sharding: Sharding, group: Group, attention: str) -> None:
        self.group, self.ranks, self.sharding, self.attention = group, group.ranks, sharding, attention
        self.stream, self.device = sharding.stream, group.device
        self.dtype = network.dtype
        self.encode_stage = Encode(network, sharding.stream, self.ranks)
        self.dit_stage = Denoise(network, self.stream, self.ranks)
        self.decode_stage = Decode(network, sharding.stream, self.ranks)
        self.clock = StageClock(self.device)
        self.kernel_calls: Counter[str] = Counter()
        self.state_bytes = 0

    def new_state(self) -> ShardState:
        """Zeroed state of a fresh clip."""
        sharding, rank = self.sharding, self.ranks.rank
        rows = length(sharding.rows[rank]), self.stream.geometry.tokens[0]
        network, slots = self.stream.preset.network, self.stream.preset.attention.ring_slots
        heads = length(sharding.heads[rank]), network.dit.heads
        caches = [cache_specs(self.stream, layer, slots, "ring") for layer in range(network.dit.layers)]
        state = ShardState(
            encode=[self._zeros(spec, *rows) for spec in encode_signature(self.stream).state],
            ring=[LayerCache(*(self._zeros(spec, *heads) for spec in specs)) for specs in caches],
            memory=[
                self._zeros(spec, *rows).contiguous(memory_format=torch.channels_last)
                for spec in decode_signature(self.stream).state
            ],
        )
        self.state_bytes = state.size_bytes()
        return state

    def reset_state(self, state: ShardState) -> None:
        """Zero the state of a clip for the next one."""
        with torch.inference_mode():
            for tensor in state.tensors():
                tensor.zero_()

    def encode(
        self, first: bool, state: ShardState, frames: np.ndarray | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Frames on rank 0 -> this rank's rows of condition and tokens."""
        runs = self.sharding.lr_rows
        with self._stage("encode"):
            parts = None
            if frames is not None:
                pixels = torch.from_numpy(frames).to(self.device)
                parts = [pixels[:, run] for run in runs]
            width = self.stream.geometry.width
            shape = (UNIT_FRAMES, length(runs[self.ranks.rank]), width, 3)
            own = self.ranks.scatter(parts, self._empty(shape, torch.uint8), FRAMES_IN)
            flag = torch.tensor(first, device=self.device)
            condition, tokens, *state.encode = self.encode_stage(own, flag, *state.encode)
        return condition, tokens

    def dit(
        self,
        tokens: tuple[torch.Tensor, ...],
        rope: tuple[np.ndarray, np.ndarray],
        step: RingStep,
        state: ShardState,
        noise: np.ndarray | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """Noise on rank 0 and this rank's rows of each unit's tokens -> its rows of each unit's latent."""
        with self._stage("dit"):
            runs = self.sharding.latent_rows
            rows, columns = length(runs[self.ranks.rank]), self.stream.geometry.latent[1]
            shape = (len(tokens) * UNIT_LATENT_FRAMES, LATENT_CHANNELS, rows, columns)
            parts = None
            if noise is not None:
                whole = torch.from_numpy(noise).to(self.device)
                parts = [whole[:, :, run] for run in runs]
            own = self.ranks.scatter(parts, self._empty(shape, torch.float32), NOISE)
            inputs = [torch.from_numpy(array).to(self.device) for array in (*rope, step.valid)]
            latent, _ = self.dit_stage(own, torch.cat(tokens), *inputs, state.ring, step.slots, step.filled)
        return latent.split(UNIT_LATENT_FRAMES)

    def decode(self, latent: torch.Tensor, condition: torch.Tensor, state: ShardState) -> np.ndarray | None:
        """This rank's rows of a unit -> all of its frames, on rank 0."""
        width = self.stream.geometry.target[1]
        shapes = [(UNIT_FRAMES, length(run), width, 3) for run in self.sharding.pixel_rows]
        with self._stage("decode"):
            frames, state.memory = self.decode_stage(latent, condition, state.memory)
            parts = self.ranks.gather(frames, shapes, FRAMES_OUT)
            if parts is None:
                return None
            whole = torch.cat(parts, dim=1)
        return whole.cpu().numpy()

    def report(self) -> list[dict[str, Any]]:
        """What each rank has: stages' seconds, bytes sent, operators' calls, bytes of state and of memory."""
        on_gpu = self.device.type == "cuda"
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return self.group.share(
            {
                "rank": self.ranks.rank,
                "heads": length(self.sharding.heads[self.ranks.rank]),
                "rows": length(self.sharding.rows[self.ranks.rank]),
                "stage_seconds": self.clock.read(),
                "sent_bytes": dict(self.ranks.sent),
                "kernel_calls": dict(self.kernel_calls),
                "state_bytes": self.state_bytes,
                "peak_bytes": torch.cuda.max_memory_allocated(self.device) if on_gpu else peak,
            }
        )

    @contextmanager
    def _stage(self, name: str):
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.attention == "reference":
                stack.enter_context(reference_kernels())
            stack.enter_context(self.clock.measure(name))
            calls = stack.enter_context(counted_calls())
            yield
            self.kernel_calls.update(calls)

    def _zeros(self, spec: TensorSpec, own: int, whole: int) -> torch.Tensor:
        """Of a state whose third axis is shared: `own` of its `whole` rows of tokens, or heads."""
        shared = spec.shape[2] // whole * own
        shape = (*spec.shape[:2], shared, *spec.shape[3:])
        dtype = self.dtype if spec.dtype == COMPUTE else getattr(torch, spec.dtype)
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)
