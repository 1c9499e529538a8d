"""What is carried from call to call by the torch executor, and how it is made: zero, once per clip."""

from collections.abc import Iterable
from dataclasses import dataclass
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
from flashvsr_trt.model.attention import E4m3Cache, LayerCache
from flashvsr_trt.model.fp8_cache import Fp8Cache
from flashvsr_trt.model.sharding import Sharding
from flashvsr_trt.runtime.torch.graphs import StepGraphs


@dataclass
class TorchState:
    """What is carried from call to call: always the same memory, changed in place."""

    encode: list[torch.Tensor]
    ring: Iterable[Any]
    """`LayerCache`, or `Fp8Cache` where there is a `place`."""
    memory: list[torch.Tensor]
    encoding_graphs: StepGraphs | None = None
    graphs: StepGraphs | None = None
    decoding_graphs: StepGraphs | None = None
    place: LayerCache | None = None
    """Where layers of an FP8 ring run, one after another."""

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
    fp8_ring: bool
    """Keep layers as `Fp8Cache`, and run them in a place."""
    e4m3: bool
    """Keep them as `E4m3Cache`, where their attention is sparse."""

    def tails(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What encoding and what decoding carry, zero."""
        signatures = encode_signature(self.stream), decode_signature(self.stream)
        encode, memory = ([self._zeros_carried(spec) for spec in stage.state] for stage in signatures)
        return encode, memory

    def layer(self) -> LayerCache | Fp8Cache:
        """A layer's ring as it is kept, zero."""
        return Fp8Cache.like(self._layer("meta"), self.device) if self.fp8_ring else self._layer(self.device)

    def place(self) -> LayerCache | None:
        """Where layers of FP8 rings run."""
        return self._layer(self.device) if self.fp8_ring else None

    def _layer(self, device: torch.device | str) -> LayerCache:
        attention = self.stream.preset.attention
        fp8 = self.e4m3 and attention.sparse_ratio is not None
        specs = cache_specs(self.stream, 0, attention.ring_slots, "ring")
        kept = torch.float8_e4m3fn if fp8 else self.dtype
        keys, values, means = (self._zeros(spec, device, kept) for spec in specs)
        if not fp8:
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
