"""Trained nano in tiles beside nano in one piece: the same pictures, where tiles are blended as elsewhere."""

import numpy as np
import pytest
import torch

from bench.seams import seam_sigmas, tile_borders
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.model.network import build_network
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.tiles import in_tiles
from tests.runtime.test_session import stream_through

HEIGHT, WIDTH, FRAMES = 120, 290, 5


def structured_clip() -> np.ndarray:
    """Waves, oblique edges and fine texture that move both ways, over a gradient."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    texture = np.random.default_rng(5).normal(0, 10, (HEIGHT + 2 * FRAMES, WIDTH + 3 * FRAMES))
    made = []
    for frame in range(FRAMES):
        r, c = rows + 1.3 * frame, columns + 2.1 * frame
        picture = 90 + 50 * columns / WIDTH + 35 * np.sin(r / 5) * np.cos(c / 7)
        picture += 40 * np.tanh(6 * np.sin(r / 11 + c / 13))
        picture += texture[2 * frame : 2 * frame + HEIGHT, 3 * frame : 3 * frame + WIDTH]
        made.append(np.clip(picture[..., None] + [0, 10, -15], 0, 255))
    return np.array(made).astype(np.uint8)


@pytest.mark.slow
def test_blend_zones_are_as_close_to_one_piece_as_the_rest_and_show_no_seam():
    preset = find_preset("nano")
    weights = load_weights(resolve_weights(None, preset.network), preset.network)
    network = build_network(preset.network, weights, torch.device("cpu"), torch.float32)
    stream = StreamConfig(preset, Geometry(HEIGHT, WIDTH, 2), find_schedule("low-latency"))
    plan = TilePlan(stream.geometry, (256, 384))
    tiled = in_tiles(TorchExecutor(network, plan.tile_stream(stream)), stream, plan)
    frames, made = structured_clip(), []
    for executor in (TorchExecutor(network, stream), tiled):
        made.append(stream_through(Session(executor), frames, FRAMES))
    whole, blended = made
    difference = np.abs(whole.astype(int) - blended).mean(axis=(0, 3))
    zone = np.zeros(plan.canvas, bool)
    for tile, weight in zip(plan.tiles, plan.weights, strict=True):
        zone[tile.pixels] |= (weight > 0) & (weight < 1)
    zone = zone[: 2 * HEIGHT, : 2 * WIDTH]
    assert difference[zone].mean() <= 1.2 * difference[~zone].mean()
    assert difference.mean() < 0.2
    sigmas = seam_sigmas(list(blended), tile_borders(plan.corners[1], plan.tile[1]), axis=1)
    assert len(sigmas) == 2
    assert max(sigmas.values()) < 3
