"""The package's modules over whole clips at once, in batches, with gradients.

What a stream computes call by call, with state, is a function of the clip: the projector and the decoder are
causal in time, and a DiT step sees the K/V of the units before it as they were computed there. So a clip is
one pass with the schedule in the attention's mask. A test holds this to the executor's frames.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import (
    FRAMES_PER_LATENT,
    LATENT_CHANNELS,
    UNIT_FRAMES,
    UNIT_LATENT_FRAMES,
    WINDOW_TOKENS,
    NetworkConfig,
)
from flashvsr_trt.config.rope import space_table, time_table
from flashvsr_trt.config.signatures import PIXEL_CHANNELS, PROJECTOR_TAIL, StreamConfig
from flashvsr_trt.kernels.select_blocks import local_neighbourhood
from flashvsr_trt.model.attention import Attention, StepCache
from flashvsr_trt.model.color import fix_color
from flashvsr_trt.model.decoder import WARM_UP_FRAMES, Decoder, MemBlock, TGrow, condition_cells
from flashvsr_trt.model.fused_decoder import fold_grow
from flashvsr_trt.model.upsample import fit_to_target, upsample
from flashvsr_trt.model.windows import to_windows
from training.published import PublishedDiT, PublishedProjector


class TrainableNetwork(nn.Module):
    """Projector, DiT, decoder and prompt of a network, as parameters under the bundle's names."""

    def __init__(self, config: NetworkConfig, parts: dict[str, dict[str, torch.Tensor]]) -> None:
        super().__init__()
        self.projector, self.dit, self.decoder = (
            PublishedProjector(config),
            PublishedDiT(config),
            Decoder(config),
        )
        for part in ("projector", "dit", "decoder"):
            getattr(self, part).load_state_dict(parts[part])
        # As `decode_clips` runs it: its convolutions would convert their weights in every call.
        self.decoder.to(memory_format=torch.channels_last)
        self.prompt = nn.Parameter(parts["prompt"]["prompt"].float().clone())

    def parts(self, dtype: torch.dtype) -> dict[str, dict[str, torch.Tensor]]:
        """Part -> key -> tensor on the CPU, as bundles hold them."""
        states = {part: getattr(self, part).state_dict() for part in ("projector", "dit", "decoder")}
        states["prompt"] = {"prompt": self.prompt}
        return {
            part: {key: tensor.detach().to("cpu", dtype) for key, tensor in state.items()}
            for part, state in states.items()
        }

    def forward(self, upscaled: torch.Tensor, noise: torch.Tensor, stream: StreamConfig) -> torch.Tensor:
        """Clips after the bicubic upscaling to clips as the network makes them, before they become bytes.

        Args:
            upscaled: float32 [clips, T, 3, tH, tW] of `upscale_frames`, T from `clip_frames`.
            noise: float32 [clips, latent frames, 16, tH/8, tW/8].
            stream: geometry, schedule and attention.

        Returns:
            float32 [clips, 8*units - 3, 3, tH, tW] in [-1, 1].
        """
        condition, tokens = encode(self.projector, upscaled, stream)
        latent = denoise(self.dit, self.prompt, noise, tokens, stream)
        return decode(self.decoder, latent, condition, stream)


def clip_frames(units: int, stream: StreamConfig) -> int:
    """LR frames that a clip of `units` units takes: those that come out, and the look-ahead."""
    return units * UNIT_FRAMES - WARM_UP_FRAMES + stream.schedule.lookahead


def upscale_frames(frames: torch.Tensor, stream: StreamConfig) -> torch.Tensor:
    """uint8 [clips, T, H, W, 3] -> bicubic float32 [clips, T, 3, tH, tW] in [-1, 1]."""
    upscaled = upsample(frames.flatten(0, 1), stream.geometry.scale, stream.upsampler)
    return fit_to_target(upscaled, stream.geometry.crop_corner, stream.geometry.target).unflatten(
        0, frames.shape[:2]
    )


def encode(
    projector: PublishedProjector, upscaled: torch.Tensor, stream: StreamConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Condition [clips, 8*units, 3, tH, tW] and tokens [clips, latent frames, tokens of one, dim]."""
    lookahead = stream.schedule.lookahead
    shown = upscaled[:, : upscaled.shape[1] - lookahead]
    condition = torch.cat([upscaled[:, :1].expand(-1, WARM_UP_FRAMES, -1, -1, -1), shown], dim=1)
    # With look-ahead a unit of the first frame primes the projector, and is not shown to the DiT.
    repeats = UNIT_FRAMES - 1 if lookahead else WARM_UP_FRAMES
    video = torch.cat([upscaled[:, :1].expand(-1, repeats, -1, -1, -1), upscaled], dim=1)
    tokens = project(projector, video)
    return condition, tokens[:, UNIT_LATENT_FRAMES if lookahead else 0 :]


def project(projector: PublishedProjector, video: torch.Tensor) -> torch.Tensor:
    """[clips, T, 3, tH, tW] -> tokens [clips, T/4, tH/16 * tW/16, dim], each clip from its start."""
    clips, count = video.shape[:2]
    rows, columns = (side // 16 for side in video.shape[-2:])
    first = torch.ones((), dtype=torch.bool, device=video.device)
    pixel_tail = video.new_zeros(clips, PROJECTOR_TAIL, PIXEL_CHANNELS, rows, columns)
    hidden_tail = video.new_zeros(clips, PROJECTOR_TAIL, projector.conv1.out_channels, rows, columns)
    run = torch.vmap(lambda *inputs: projector(inputs[0], first, *inputs[1:])[0])
    return run(video, pixel_tail, hidden_tail).unflatten(1, (count // FRAMES_PER_LATENT, -1))


def denoise(
    dit: PublishedDiT, prompt: torch.Tensor, noise: torch.Tensor, tokens: torch.Tensor, stream: StreamConfig
) -> torch.Tensor:
    """Noise and tokens of whole clips -> clean latents [clips, latent frames, 16, tH/8, tW/8]."""
    clips, latents = noise.shape[:2]
    attention = clip_attention(stream, clips, latents // UNIT_LATENT_FRAMES, noise.device)
    rope = [table.repeat(clips, 1) for table in rope_tables(latents, stream, noise.device)]
    layers = [None] * len(dit.blocks)
    velocity, _ = dit(
        noise.flatten(0, 1), tokens.flatten(0, 2), rope, dit.constants(prompt), layers, None, attention
    )
    return noise - velocity.float().view_as(noise)


@cache
def rope_tables(latents: int, stream: StreamConfig, device: torch.device) -> list[torch.Tensor]:
    """Cos and sin [tokens of the clip, head_dim/2], window order; kept, as `clip_attention` is."""
    head_dim, grid = stream.preset.network.dit.head_dim, stream.geometry.tokens
    tables = []
    for time, space in zip(
        time_table(torch.arange(latents).numpy(), head_dim), space_table(*grid, head_dim), strict=True
    ):
        of_time = torch.from_numpy(time)[:, None, None].expand(-1, *grid, -1)
        of_space = torch.from_numpy(space)[None].expand(latents, -1, -1, -1)
        table = torch.cat([of_time, of_space], dim=-1).flatten(0, 2)
        tables.append(to_windows(table, grid).to(device))
    return tables


class ClipAttention(Attention):
    """The schedule's attention over whole clips: what the ring shows a step is a mask here."""

    def __init__(self, stream: StreamConfig, clips: int, units: int, device: torch.device) -> None:
        self.clips, self.units, self.windows = clips, units, stream.geometry.unit_windows
        attention = stream.preset.attention
        self.visible_units = visible_units(stream, units).to(device)
        self.sparse = attention.sparse_ratio is not None
        if self.sparse:
            self.top_k = stream.geometry.top_k(attention)
            near = local_neighbourhood(*stream.geometry.windows, attention.local_range).to(device)
            seen = self.visible_units[:, None, :, None] & near[None, :, None, :]
        else:
            seen = self.visible_units[:, None, :, None].expand(-1, self.windows, -1, self.windows)
        # [units, W, units*W]: query windows of each unit, key windows of the clip.
        self.seen = seen.reshape(units, self.windows, units * self.windows)

    def attend(
        self, q: torch.Tensor, q_means: torch.Tensor, cache: StepCache, slot_valid: None
    ) -> torch.Tensor:
        """Queries [clips*tokens, heads, head_dim] -> the same shape."""
        keep = self.keep(q_means, cache.own.key_means)
        nothing = ~keep.any(dim=-1, keepdim=True)
        tokens = (keep | nothing).repeat_interleave(WINDOW_TOKENS, dim=-1)
        tokens = tokens.repeat_interleave(WINDOW_TOKENS, dim=-2)
        split = [
            x.unflatten(0, (self.clips, -1)).transpose(1, 2) for x in (q, cache.own.keys, cache.own.values)
        ]
        attended = F.scaled_dot_product_attention(*split, attn_mask=tokens)
        attended = attended * ~nothing.repeat_interleave(WINDOW_TOKENS, dim=-2)
        return attended.transpose(1, 2).flatten(0, 1)

    @torch.no_grad()
    def keep(self, q_means: torch.Tensor, k_means: torch.Tensor) -> torch.Tensor:
        """Which key windows each query window sees: bool [clips, heads or 1, units*W, units*W]."""
        if not self.sparse:
            return self.seen.flatten(0, 1)[None, None]
        q, k = (x.unflatten(0, (self.clips, -1)) for x in (q_means, k_means))
        scores = torch.einsum("cqhd,ckhd->chqk", q, k) * q.shape[-1] ** -0.5
        scores = scores.unflatten(2, (self.units, self.windows))
        probability = torch.softmax(scores.masked_fill(~self.seen, float("-inf")), dim=-1)
        # As `select_blocks_reference`: strictly above the (m+1)-th largest of a head and query unit.
        entries = self.windows**2 * self.visible_units.sum(dim=-1)
        last = torch.clamp(entries - 1, max=self.top_k)
        ranked = probability.flatten(3).sort(dim=-1, descending=True).values
        place = last.view(1, 1, -1, 1).expand(*ranked.shape[:2], -1, 1)
        threshold = ranked.gather(-1, place)[..., None]
        return (probability > threshold).flatten(2, 3)


@cache
def clip_attention(stream: StreamConfig, clips: int, units: int, device: torch.device) -> ClipAttention:
    """Kept, because a CUDA graph cannot be captured while its masks are copied to the device."""
    return ClipAttention(stream, clips, units, device)


def visible_units(stream: StreamConfig, units: int) -> torch.Tensor:
    """Bool [units, units]: which units each unit's step sees, its own step's among them."""
    first, past = stream.schedule.first_units, stream.preset.attention.past_units
    query, key = torch.arange(units)[:, None], torch.arange(units)[None, :]
    steady = (key <= query) & (key >= query - past)
    together = (query < first) & (key < first)
    return torch.where(query < first, together, steady)


def decode(
    decoder: Decoder, latent: torch.Tensor, condition: torch.Tensor, stream: StreamConfig
) -> torch.Tensor:
    """Latents and condition of whole clips -> frames [clips, 8*units - 3, 3, tH, tW] in [-1, 1]."""
    decoded = decode_clips(decoder, latent, condition)
    frames, reference = (x[:, WARM_UP_FRAMES:].flatten(0, 1) for x in (decoded.float() * 2 - 1, condition))
    return fix_color(frames, reference, stream.color_fix).unflatten(0, (len(latent), -1))


def decode_clips(decoder: Decoder, latent: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """The decoder's layers over [clips * time]: only a MemBlock looks back, and within its clip."""
    clips = len(latent)
    x = torch.cat([condition_cells(condition.flatten(0, 1)), latent.flatten(0, 1)], dim=1)
    x = x.contiguous(memory_format=torch.channels_last)
    layers = list(decoder.decoder)
    for index, layer in enumerate(layers):
        if isinstance(layer, MemBlock):
            x = run_mem_block(layer, x, clips)
        elif isinstance(layer, TGrow):
            conv = layers[index + 1]
            grown = F.conv_transpose2d(x, fold_grow(layer.conv.weight, conv.weight), stride=2, padding=1)
            x = grown.reshape(-1, conv.out_channels, *grown.shape[2:])
        elif not folded(layers, index):
            x = layer(x)
    return x.unflatten(0, (clips, -1))


def run_mem_block(block: MemBlock, x: torch.Tensor, clips: int) -> torch.Tensor:
    """The block over [clips * T, C, h, w].

    What its first convolution makes of the past is made of each frame once and moved to the next.
    """
    first, _, *rest = block.conv
    weights = torch.cat(first.weight.chunk(2, dim=1))
    present, past = F.conv2d(x, weights, padding=1).chunk(2, dim=1)
    hidden = F.relu(present + previous_frames(past, clips) + first.bias.view(-1, 1, 1))
    for layer in rest:
        hidden = layer(hidden)
    return F.relu(hidden + x)


def folded(layers: list[nn.Module], index: int) -> bool:
    """Whether a layer is the upsampling before a TGrow or the convolution after one (see `fold_grow`)."""
    return isinstance(layers[index], nn.Upsample) or isinstance(layers[index - 1], TGrow)


def previous_frames(x: torch.Tensor, clips: int) -> torch.Tensor:
    """[clips * T, ...] moved by one frame in each clip; zeros come in."""
    frames = x.unflatten(0, (clips, -1))
    return torch.cat([torch.zeros_like(frames[:, :1]), frames[:, :-1]], dim=1).flatten(0, 1)


def latent_size(stream: StreamConfig, clips: int, units: int) -> tuple[int, ...]:
    """Shape of the noise of so many clips."""
    return clips, units * UNIT_LATENT_FRAMES, LATENT_CHANNELS, *stream.geometry.latent
