"""The most that each stage holds at a time, beside what is carried and what other stages made: bytes.

The torch executor's, counted from its tensors; `bench.tile_memory` measures them on a GPU.
"""

from dataclasses import dataclass

from flashvsr_trt.config.presets import LATENT_CHANNELS, TOKEN_STRIDE, UNIT_FRAMES, UNIT_LATENT_FRAMES
from flashvsr_trt.config.signatures import DTYPE_BYTES, PIXEL_CHANNELS, StreamConfig

ALONE_PIXELS = 2**18
"""Feature maps this large are decoded frame by frame: one fills a GPU, its past is the one before as it lies,
and at the output's size there are two frames' activations and not a whole unit's."""

BAND_PIXELS = 2**18
"""Tiles leave the decoder in bands of rows of so many pixels: at the output's size maps are widest."""

FLOAT_FRAMES = 3 * 4 * UNIT_FRAMES
"""A pixel of a unit's frames in float32."""

BYTE_FRAMES = 3 * UNIT_FRAMES
"""A pixel of a unit's frames in bytes."""

HALF_SIZE_MAPS = {"cpu": 8.0, "small": 11.4, "large": 13.0}
"""Maps of a frame at half the output's size that the last group has at a time, as was measured: on a CPU, and
on a GPU, where cuDNN works in one more beyond LARGE_PIXELS."""

LARGE_PIXELS = 1280 * 1024


@dataclass(frozen=True)
class RankShare:
    """A rank's parts of a stream: of rows of pixels, of a step's windows, of attention's heads."""

    rows: float = 1
    windows: float = 1
    heads: float = 1


WHOLE = RankShare()


def pixels_of(stream: StreamConfig) -> int:
    """Of a frame of the network."""
    return stream.geometry.target[0] * stream.geometry.target[1]


def waiting_bytes(stream: StreamConfig, compute: str, conditions: bool = True) -> int:
    """What a unit's encoding leaves for the others: tokens, and frames behind those that were carried."""
    tokens = stream.geometry.unit_tokens * stream.preset.network.dit.dim * DTYPE_BYTES[compute]
    return tokens + (_timeline_bytes(stream) if conditions else 0)


def _timeline_bytes(stream: StreamConfig) -> int:
    return 3 * 4 * (UNIT_FRAMES + stream.schedule.lookahead) * pixels_of(stream)


def encode_bytes(stream: StreamConfig, compute: str) -> int:
    """Frames as they came and upscaled, their pixels, the larger convolution's stacked input and results."""
    size, hidden = DTYPE_BYTES[compute], stream.preset.network.projector.hidden[0]
    convolved = 2 * UNIT_FRAMES * max(PIXEL_CHANNELS, hidden) * size // TOKEN_STRIDE**2
    return _timeline_bytes(stream) + pixels_of(stream) * (BYTE_FRAMES + 3 * UNIT_FRAMES * size + convolved)


def dit_bytes(stream: StreamConfig, compute: str, units: int) -> int:
    """The wide and seven narrow activations of a layer, RoPE's tables, latents, and maps of blocks.

    New keys and values go straight into the ring.
    """
    config, geometry = stream.preset.network.dit, stream.geometry
    tokens, windows = units * geometry.unit_tokens, geometry.unit_windows
    activations = (config.ffn_dim + 7 * config.dim) * DTYPE_BYTES[compute] + 4 * config.head_dim
    latents = 3 * units * UNIT_LATENT_FRAMES * LATENT_CHANNELS * 4 * geometry.latent[0] * geometry.latent[1]
    blocks = 3 * 4 * config.heads * units * windows * stream.preset.attention.ring_slots * windows
    return tokens * activations + latents + blocks


def decode_bytes(stream: StreamConfig, compute: str, on_gpu: bool, in_bands: bool = False) -> int:
    """Condition, frames made one by one and joined, maps at half the output's size and at the whole of it."""
    size, pixels = DTYPE_BYTES[compute], pixels_of(stream)
    *_, half, whole = stream.preset.network.decoder.channels
    if not in_bands and pixels // 4 < ALONE_PIXELS:
        # All frames together: three maps of each, and more copies on a GPU.
        return pixels * (3 * UNIT_FRAMES * whole * size + (6 if on_gpu else 2) * FLOAT_FRAMES)
    frames = 2 * FLOAT_FRAMES + 3 * UNIT_FRAMES * size
    band = min(pixels, BAND_PIXELS + 8 * stream.geometry.target[1]) if in_bands else pixels
    # Two frames grow at once, and a convolution makes as much of them; then these are colours.
    leaving = 4 * whole * size + 36
    maps = HALF_SIZE_MAPS["cpu" if not on_gpu else "small" if pixels <= LARGE_PIXELS else "large"]
    if on_gpu and pixels // 16 >= ALONE_PIXELS:
        # The group before it makes two of them at a time then, and not four.
        maps -= 2
    return int(pixels * (frames + maps * half * size / 4) + band * leaving)
