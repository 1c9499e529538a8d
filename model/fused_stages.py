"""The stages that the torch executor runs instead of those of `stages.py`: same results, fused operators."""

import torch

from flashvsr_trt.config.presets import TOKEN_STRIDE
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.kernels.calls import record_call, runs_kernel
from flashvsr_trt.kernels.device import architecture_of
from flashvsr_trt.kernels.torch_fused_ops import finish_frames
from flashvsr_trt.kernels.tuning import setting_for
from flashvsr_trt.model.attention import DenseRingAttention, LayerCache, SparseAttention
from flashvsr_trt.model.fused_decoder import FusedDecoder
from flashvsr_trt.model.fused_dit import FusedDiT
from flashvsr_trt.model.fused_projector import FusedProjector, unshuffle
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.stages import Decode, Denoise, Encode
from flashvsr_trt.model.upsample import FIXED_POINT_BITS


class FusedEncode(Encode):
    """`Encode` with channels innermost, and the official upscaler as one kernel where there is a GPU."""

    def __init__(self, network: Network, stream: StreamConfig) -> None:
        super().__init__(network, stream)
        self.projector = FusedProjector(network.projector)

    def forward(
        self,
        frames: torch.Tensor,
        first: torch.Tensor,
        pixel_tail: torch.Tensor,
        hidden_tail: torch.Tensor,
        condition_tail: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """See `Encode.forward`; frames are upscaled to where they lie behind the carried ones."""
        carried = 0 if condition_tail is None else len(condition_tail)
        size = (carried + len(frames), 3, *self.stream.geometry.target)
        timeline = frames.new_empty(size, dtype=torch.float32)
        pixels = self.upscale_into(timeline[carried:], frames, pixel_tail.dtype)
        following = self.projector(pixels, first, pixel_tail, hidden_tail)
        if condition_tail is None:
            return timeline, *following
        timeline[:carried] = condition_tail
        condition, condition_tail = timeline.split([len(frames), carried])
        return condition, *following, condition_tail

    def upscale_into(self, out: torch.Tensor, frames: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """`Encode.upscale` into `out`; returns it in `dtype` and unshuffled, [T, tH/16, tW/16, 768]."""
        if self.stream.upsampler != "pil" or not runs_kernel(frames):
            out.copy_(self.upscale(frames))
            return unshuffle(out.to(dtype))
        from flashvsr_trt.kernels.upsample_triton import launch_upsample_frames

        record_call("upsample_frames", "triton")
        tables = (self.row_table, self.column_table)
        setting = setting_for("upsample_frames", architecture_of(frames.device))
        corner = self.stream.geometry.crop_corner
        return launch_upsample_frames(
            frames, tables, corner, FIXED_POINT_BITS, TOKEN_STRIDE, out, dtype, setting
        )


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


class FusedDecode(Decode):
    """`Decode` whose last steps are one operator where the colours are fixed by AdaIN."""

    def __init__(self, network: Network, stream: StreamConfig) -> None:
        super().__init__(network, stream)
        self.decoder = FusedDecoder(network.decoder)

    def finish(self, frames: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """See `Decode.finish`."""
        if self.color_fix != "adain":
            return super().finish(frames, condition)
        return finish_frames(frames.contiguous(), condition.contiguous())
