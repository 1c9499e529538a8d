"""How much arithmetic a steady unit (8 frames) is, stage by stage, counted on tensors without memory."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from flashvsr_trt.config.presets import WINDOW_TOKENS, NetworkConfig
from flashvsr_trt.config.signatures import (
    COMPUTE,
    Role,
    StreamConfig,
    TensorSpec,
    dit_signature,
    encode_signature,
)
from flashvsr_trt.model.decoder import Decoder
from flashvsr_trt.model.dit import DiT
from flashvsr_trt.model.fused_decoder import FusedDecoder
from flashvsr_trt.model.fused_projector import FusedProjector
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.projector import Projector
from flashvsr_trt.model.running_dit import RunningDiT
from flashvsr_trt.runtime.torch.executor import TorchExecutor

H200_TFLOPS = 790.0
"""What bf16 matrix products reach on one H200: the rate that the limits are counted at."""


@dataclass(frozen=True)
class UnitWork:
    """Floating-point operations by stage; a multiplication and an addition are two."""

    encode: float
    dit: float
    decode: float

    @property
    def total(self) -> float:
        """All three stages."""
        return self.encode + self.dit + self.decode

    @property
    def limit_ms(self) -> float:
        """Milliseconds that all of it takes at H200_TFLOPS."""
        return self.total / H200_TFLOPS / 1e9


def unit_work(stream: StreamConfig) -> UnitWork:
    """Matrix products, convolutions and attention of a step that sees a full ring."""
    counters = {stage: FlopCounterMode(display=False) for stage in ("encode", "dit", "decode")}
    run_without_memory(stream, counters)
    work = {stage: counter.get_total_flops() for stage, counter in counters.items()}
    work["dit"] += sparse_attention_work(stream)
    return UnitWork(**work)


@torch.no_grad()
def run_without_memory(stream: StreamConfig, modes: Mapping[str, AbstractContextManager]) -> None:
    """The three stages of a steady step on the meta device, each within its entry of `modes`."""
    executor = TorchExecutor(network_without_memory(stream.preset.network), stream)
    state = executor.new_state()
    slots = stream.preset.attention.ring_slots
    encode_inputs = [_meta(spec) for spec in encode_signature(stream).inputs]
    dit_inputs = [_meta(s) for s in dit_signature(stream, 1).inputs if s.role is Role.INPUT]
    with modes["encode"]:
        condition, *_ = executor.encode_stage(*encode_inputs, *state.encode)
    with modes["dit"]:
        latent, _ = executor.dit_stage(*dit_inputs, state.ring, slice(0, 1), slots)
    with modes["decode"]:
        executor.decode_stage(latent, condition, state.memory)


def sparse_attention_work(stream: StreamConfig) -> int:
    """What the kept blocks cost, which is our own operator's work; 0 for dense attention."""
    attention, config = stream.preset.attention, stream.preset.network.dit
    if attention.sparse_ratio is None:
        return 0
    return kept_blocks(stream) * config.heads * config.layers * 4 * WINDOW_TOKENS**2 * config.head_dim


def kept_blocks(stream: StreamConfig) -> int:
    """Block pairs that a head of a layer keeps in a steady step."""
    entries = stream.geometry.unit_windows**2 * stream.preset.attention.ring_slots
    return min(entries - 1, stream.geometry.top_k(stream.preset.attention))


def network_without_memory(config: NetworkConfig) -> Network:
    """The modules on the meta device."""
    with torch.device("meta"):
        projector, dit, decoder = Projector(config), DiT(config), Decoder(config)
        prompt = torch.empty(1, config.dit.text_tokens, config.dit.text_dim)
    with torch.no_grad():
        return Network(
            FusedProjector(projector),
            RunningDiT(dit, dit.constants(prompt)),
            FusedDecoder(decoder, torch.float32),
        )


def _meta(spec: TensorSpec) -> torch.Tensor:
    dtype = torch.float32 if spec.dtype == COMPUTE else getattr(torch, spec.dtype)
    return torch.empty(spec.shape, dtype=dtype, device="meta")
