"""The stages that the torch executor runs instead of those of `stages.py`: same results, fused operators."""

import torch

from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.model.attention import DenseRingAttention, LayerCache, SparseAttention
from flashvsr_trt.model.fused_dit import FusedDiT
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.stages import Denoise


class FusedDenoise(Denoise):
    """`Denoise` that writes the new keys and values into the ring itself."""

    def __init__(self, network: Network, stream: StreamConfig) -> None:
        super().__init__(network, stream)
        self.dit = FusedDiT(network.dit, network.constants)
        if not isinstance(self.attention, SparseAttention):
            self.attention = DenseRingAttention()

    def forward(
        self,
        noise: torch.Tensor,
        tokens: torch.Tensor,
        time_cos: torch.Tensor,
        time_sin: torch.Tensor,
        slot_valid: torch.Tensor,
        ring: list[LayerCache],
        slots: slice,
        filled: int,
    ) -> torch.Tensor:
        """The clean latent; the ring's `slots`, not valid before, hold the step's keys and values afterwards.

        `filled` slots, the first ones, are valid or written: dense attention sees these and has no mask.
        """
        if isinstance(self.attention, DenseRingAttention):
            ring = [cache.part(slice(filled)) for cache in ring]
        slot_valid = slot_valid.clone()
        slot_valid[slots] = True
        rope = self.rope_table(time_cos, time_sin)
        velocity = self.dit(noise, tokens, rope, ring, slots, slot_valid, self.attention)
        return noise - velocity.float()
