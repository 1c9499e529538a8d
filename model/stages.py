"""The three stages as pure functions of (inputs, state) -> (outputs, next state).

Names, shapes and dtypes are declared in `flashvsr_trt.config.signatures`; every backend runs these functions.
"""

from collections.abc import Iterable
from functools import cache, partial

import torch
from torch import nn

from flashvsr_trt.config.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.config.rope import space_table
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.model.attention import DenseAttention, LayerCache, StepCache, self_attention_for
from flashvsr_trt.model.color import finish_frames
from flashvsr_trt.model.communicator import ONE_PROCESS, Communicator
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.running_dit import Step
from flashvsr_trt.model.sharding import Sharding
from flashvsr_trt.model.step_tokens import step_tokens
from flashvsr_trt.model.upsample import Upscaler
from flashvsr_trt.model.windows import to_windows


class Encode(nn.Module):
    """LR frames to the decoder's condition and the DiT's tokens. A rank has its rows (`Sharding.lr_rows`)."""

    def __init__(
        self, network: Network, stream: StreamConfig, communicator: Communicator = ONE_PROCESS
    ) -> None:
        super().__init__()
        self.projector, self.communicator = network.projector, communicator
        rows = corner = target = None
        if communicator.size > 1:
            rows, corner, target = Sharding(stream, communicator.size).upscaled_parts[communicator.rank]
        self.upscaler = Upscaler(stream, network.device, rows, corner, target)

    def forward(
        self,
        frames: torch.Tensor,
        first: torch.Tensor,
        pixel_tail: torch.Tensor,
        hidden_tail: torch.Tensor,
        condition_tail: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """See `encode_signature`: returns condition, tokens and the next state.

        With look-ahead the condition lags: it is the carried frames and all but the last of these.
        """
        carried = 0 if condition_tail is None else len(condition_tail)
        timeline = place = None
        if carried and not torch.compiler.is_compiling():
            # Frames are upscaled to where they lie behind the carried ones: joining them would copy all.
            size = (carried + len(frames), 3, *self.upscaler.target)
            timeline = frames.new_empty(size, dtype=torch.float32)
            place = timeline[carried:]
        upscaled, pixels = self.upscaler(frames, pixel_tail.dtype, place)
        following = self.projector(pixels, first, pixel_tail, hidden_tail, self.communicator)
        if condition_tail is None:
            return upscaled, *following
        if timeline is None:
            timeline = torch.cat([condition_tail, upscaled])
        else:
            timeline[:carried] = condition_tail
        condition, condition_tail = timeline.split([len(frames), carried])
        return condition, *following, condition_tail


class Denoise(nn.Module):
    """Noise and tokens to latents: one DiT step. Of a rank: the rows, tokens and heads that it has."""

    space_cos: torch.Tensor
    space_sin: torch.Tensor

    def __init__(
        self, network: Network, stream: StreamConfig, communicator: Communicator = ONE_PROCESS
    ) -> None:
        super().__init__()
        self.dit = network.dit
        device = network.device
        self.attention = self_attention_for(stream.geometry, stream.preset.attention, device)
        self.grid = stream.geometry.tokens
        cos, sin = space_table(*self.grid, stream.preset.network.dit.head_dim)
        self.register_buffer("space_cos", torch.from_numpy(cos).to(device))
        self.register_buffer("space_sin", torch.from_numpy(sin).to(device))
        self.step_tokens = cache(partial(step_tokens, stream, communicator, device))

    def forward(
        self,
        noise: torch.Tensor,
        tokens: torch.Tensor,
        time_cos: torch.Tensor,
        time_sin: torch.Tensor,
        slot_valid: torch.Tensor,
        ring: Iterable[LayerCache],
        slots: slice | None = None,
        filled: int | None = None,
    ) -> tuple[torch.Tensor, list[LayerCache]]:
        """See `dit_signature`: returns the clean latent and each layer's new K/V.

        With `slots`, which are not valid before, the new K/V is written into these slots of the ring, and
        none is returned. A layer's ring is asked for when the layer runs, and the next one's when it is done.
        The `filled` slots, the first ones, are valid or written: dense attention sees these and has no mask.
        """
        units = noise.shape[0] // UNIT_LATENT_FRAMES
        step_tokens = self.step_tokens(units)
        cos, sin = map(step_tokens.of_windows, self.rope_table(time_cos, time_sin))
        new: list[LayerCache] = []
        valid: torch.Tensor | None = slot_valid
        if slots is None:
            ring = list(ring)
            new = [layer.empty(units) for layer in ring]
            caches = map(StepCache, new, ring, new)
        else:
            caches = (self._written(layer, slots, filled) for layer in ring)
            valid = self._valid_with(slot_valid, slots)
        step = Step((cos, sin), valid, self.attention, step_tokens)
        velocity = self.dit(noise, tokens, caches, step)
        return noise - velocity.float(), new

    def _written(self, layer: LayerCache, slots: slice, filled: int | None) -> StepCache:
        """What attention is to see of a layer's ring once the layer has written its slots."""
        seen = layer.part(slice(filled)) if isinstance(self.attention, DenseAttention) else layer
        before = None if filled == slots.stop - slots.start else slots.stop if slots.start == 0 else 0
        return StepCache(layer.part(slots), seen, layer.part(slice(0)), before, slots.start)

    def _valid_with(self, slot_valid: torch.Tensor, slots: slice) -> torch.Tensor | None:
        if isinstance(self.attention, DenseAttention):
            return None
        slot_valid = slot_valid.clone()
        slot_valid[slots] = True
        return slot_valid

    def rope_table(self, time_cos: torch.Tensor, time_sin: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cos and sin of every token, [tokens, head_dim/2] in window order, of those of the frames."""
        return self._table(time_cos, self.space_cos), self._table(time_sin, self.space_sin)

    def _table(self, time: torch.Tensor, space: torch.Tensor) -> torch.Tensor:
        frames = time.shape[0]
        parts = [time[:, None, None].expand(-1, *self.grid, -1), space[None].expand(frames, -1, -1, -1)]
        return to_windows(torch.cat(parts, dim=-1).flatten(0, 2), self.grid)


class Decode(nn.Module):
    """Latents and condition to frames: decoder, colour fix, 8 bits. A rank has its rows."""

    def __init__(
        self, network: Network, stream: StreamConfig, communicator: Communicator = ONE_PROCESS
    ) -> None:
        super().__init__()
        self.decoder, self.frame_rows = network.decoder, stream.geometry.latent[0]
        self.color_fix, self.communicator = stream.color_fix, communicator

    def forward(
        self, latent: torch.Tensor, condition: torch.Tensor, memory: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See `decode_signature`: returns frames uint8 and the next memory."""
        decoded, memory = self.decode(latent, condition, memory)
        return self.finish(decoded, condition), memory

    def decode(
        self, latent: torch.Tensor, condition: torch.Tensor, memory: list[torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """See `decode_tile_signature`: the decoder's frames, in its own dtype, and the next memory."""
        dtype = memory[0].dtype
        return self.decoder(latent.to(dtype), condition.to(dtype), memory, self.communicator, self.frame_rows)

    def finish(self, frames: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """The decoder's [T, 3, H, W] in about [0, 1] -> corrected frames as bytes [T, H, W, 3]."""
        return finish_frames(frames, condition, self.color_fix, self.communicator)
