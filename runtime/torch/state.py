"""What is carried from call to call by the torch executor, and how it is made: zero, once per clip."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from flashvsr_trt.config.signatures import (
    COMPUTE,
    StreamConfig,
    TensorSpec,
    cache_specs,
    decode_signature,
    encode_signature,
)
from flashvsr_trt.memory import Ring
from flashvsr_trt.model.attention import E4m3Cache, Fp8Cache, LayerCache
from flashvsr_trt.model.fp8_cache import zero_fp8_cache
from flashvsr_trt.model.sharding import Sharding
from flashvsr_trt.runtime.torch.graphs import StepGraphs


@dataclass
class TorchState:
    """What is carried from call to call: always the same memory, changed in place."""

    encode: list[torch.Tensor]
    ring: Iterable[Any]
    """`LayerCache`; `Fp8Cache` with `--kv-cache fp8`."""
    memory: list[torch.Tensor]
    graphs: Mapping[str, StepGraphs] = field(default_factory=dict)
    """By stage, of those whose steps are captured."""
    place: LayerCache | None = None
    """Where layers of an FP8 ring that attention does not read run, one after another."""

    def tensors(self) -> list[torch.Tensor]:
        """All of it, flat."""
        return [*self.encode, *(part for cache in self.ring for part in vars(cache).values()), *self.memory]


@dataclass(frozen=True)
class StateMaker:
    """Makes a state's tensors, of what this rank has of a stream."""

    stream: StreamConfig
    sharding: Sharding
    rank: int
    device: torch.device
    dtype: torch.dtype
    ring: Ring

    def tails(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What encoding and what decoding carry, zero."""
        signatures = encode_signature(self.stream), decode_signature(self.stream)
        encode, memory = ([self._zeros_carried(spec) for spec in stage.state] for stage in signatures)
        return encode, memory

    def layer(self) -> LayerCache | Fp8Cache:
        """A layer's ring as it is kept, zero."""
        if self.ring.has_scales:
            return zero_fp8_cache(self._layer("meta"), self.device)
        return self._layer(self.device)

    def place(self) -> LayerCache | None:
        """Where layers of FP8 rings run, if attention does not read these."""
        return self._layer(self.device) if self.ring is Ring.WIDENED else None

    def _layer(self, device: torch.device | str) -> LayerCache:
        specs = cache_specs(self.stream, 0, self.stream.preset.attention.ring_slots, "ring")
        kept = torch.float8_e4m3fn if self.ring is Ring.ATTENDED else self.dtype
        keys, values, means = (self._zeros(spec, device, kept) for spec in specs)
        if self.ring is not Ring.ATTENDED:
            return LayerCache(keys, values, means)
        # A slot's mean has the shape that one of its windows' has.
        return E4m3Cache(keys, values, means, torch.zeros_like(means[:, 0]))

    def _zeros_carried(self, spec: TensorSpec) -> torch.Tensor:
        # Features as convolutions want them, or each call would convert them; frames as they come.
        layout = torch.channels_last if spec.dtype == COMPUTE else torch.contiguous_format
        return self._zeros(spec).contiguous(memory_format=layout)

    def _zeros(
        self,
        spec: TensorSpec,
        device: torch.device | str | None = None,
        compute: torch.dtype | None = None,
    ) -> torch.Tensor:
        dtype = (compute or self.dtype) if spec.dtype == COMPUTE else getattr(torch, spec.dtype)
        shape = self.sharding.carried_shape(spec, self.rank)
        return torch.zeros(shape, dtype=dtype, device=device or self.device)
