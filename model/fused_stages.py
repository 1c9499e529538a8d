"""The stages that the torch executor runs instead of those of `stages.py`: same results, fused operators."""

import torch

from flashvsr_trt.kernels.torch_fused_ops import finish_frames
from flashvsr_trt.model.attention import DenseRingAttention, LayerCache, SparseAttention
from flashvsr_trt.model.fused_dit import FusedDiT
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.stages import Decode, Denoise
from flashvsr_trt.signatures import StreamConfig


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
        """The clean latent; the ring's `slots`, not valid in this step, hold its keys and values afterwards.

        `filled` slots, the first ones, are valid or written: dense attention sees these and has no mask.
        """
        if isinstance(self.attention, DenseRingAttention):
            ring = [cache.part(slice(filled)) for cache in ring]
        rope = self.rope_table(time_cos, time_sin)
        velocity = self.dit(noise, tokens, rope, ring, slots, slot_valid, self.attention)
        return noise - velocity.float()


class FusedDecode(Decode):
    """`Decode` whose last steps are one operator where the colours are fixed by AdaIN."""

    def finish(self, frames: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """See `Decode.finish`."""
        if self.color_fix != "adain":
            return super().finish(frames, condition)
        return finish_frames(frames.contiguous(), condition.contiguous())
