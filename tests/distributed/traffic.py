"""How many bytes the ranks send each other for one steady unit: the formula of docs/distributed.md."""

import torch

from flashvsr_trt.config.pictures import WAVELET_LEVELS
from flashvsr_trt.config.presets import (
    LATENT_CHANNELS,
    LATENT_STRIDE,
    PATCH,
    UNIT_FRAMES,
    UNIT_LATENT_FRAMES,
    NetworkConfig,
)
from flashvsr_trt.config.signatures import PIXEL_CHANNELS, PROJECTOR_TAIL
from flashvsr_trt.model.decoder import CONDITION_CHANNELS
from flashvsr_trt.model.sharding import Sharding, length
from flashvsr_trt.model.step_tokens import row_owners, window_owners
from flashvsr_trt.model.windows import to_windows

FLOAT32 = 4
SWAPPED = 2
"""Each border between two ranks is crossed both ways."""


def unit_traffic(sharding: Sharding, dtype_bytes: int) -> dict[str, int]:
    """Bytes that all ranks send, by kind, as `Ranks.sent` counts them; `dtype_bytes` of the network."""
    stream, size = sharding.stream, sharding.size
    geometry, network = stream.geometry, stream.preset.network
    borders = size - 1
    dim = network.dit.dim
    latent_row = UNIT_LATENT_FRAMES * LATENT_CHANNELS * geometry.latent[1]
    token_bytes = (dim + LATENT_CHANNELS * PATCH * PATCH) * dtype_bytes
    row_bytes = UNIT_FRAMES * geometry.target[1] * 3
    traffic = {
        "attention": attention_bytes(sharding, dtype_bytes),
        "tokens": moved_tokens(sharding) * token_bytes,
        "halo": borders * SWAPPED * halo_elements(network, geometry.target[1]) * dtype_bytes,
        "noise": sum(length(run) * latent_row * FLOAT32 for run in sharding.latent_rows[1:]),
        "frames_in": sum(UNIT_FRAMES * length(run) * geometry.width * 3 for run in sharding.lr_rows[1:]),
        "frames_out": sum(length(run) * row_bytes for run in sharding.pixel_rows[1:]),
    }
    if stream.color_fix == "adain":
        # Count, mean and variance of each frame and channel, of the frames and of what they are matched to.
        traffic["statistics"] = 2 * size * borders * 3 * UNIT_FRAMES * 3 * FLOAT32
    elif stream.color_fix == "wavelet":
        rows = sum(2**level for level in range(WAVELET_LEVELS))
        traffic["halo"] += 2 * borders * SWAPPED * rows * row_bytes * FLOAT32
    return traffic


def attention_bytes(sharding: Sharding, dtype_bytes: int) -> int:
    """q, k and v to the heads' ranks and the result back, and the window means of q and k, of all layers."""
    network = sharding.stream.preset.network.dit

    def elsewhere(runs: tuple[slice, ...]) -> int:
        """Pairs of a thing and a head that are not of one rank: what is there already is not sent."""
        there = sum(length(run) * length(heads) for run, heads in zip(runs, sharding.heads, strict=True))
        return runs[-1].stop * network.heads - there

    by_token, by_window = elsewhere(sharding.tokens(1)), elsewhere(sharding.windows(1))
    return network.layers * network.head_dim * (4 * by_token * dtype_bytes + 2 * by_window * FLOAT32)


def moved_tokens(sharding: Sharding) -> int:
    """Tokens of a unit whose row and whose place in window order belong to two ranks."""
    by_row = to_windows(row_owners(sharding, 1), sharding.stream.geometry.tokens)
    return int(torch.count_nonzero(by_row != window_owners(sharding, 1)))


def halo_elements(network: NetworkConfig, width: int) -> int:
    """Elements of one border's row, over all convolutions of a unit, at `width` pixels."""
    c0, c1, c2, c3 = network.decoder.channels
    cells, latents = width // LATENT_STRIDE, UNIT_LATENT_FRAMES
    tokens = cells // PATCH
    projector = tokens * (
        (PROJECTOR_TAIL + UNIT_FRAMES) * PIXEL_CHANNELS
        + (PROJECTOR_TAIL + UNIT_FRAMES // 2) * network.projector.hidden[0]
    )
    entry = cells * latents * (CONDITION_CHANNELS + LATENT_CHANNELS + c0)
    # Three MemBlocks, whose convolutions read 2c, c and c channels, and the way to twice the size.
    groups = sum(
        cells * 2**level * frames * (3 * 4 + 1) * channels
        for level, (frames, channels) in enumerate(((latents, c0), (latents, c1), (2 * latents, c2)))
    )
    leaving = width * UNIT_FRAMES * 2 * c3
    return projector + entry + groups + leaving
