"""Tiles: whole frames come out as without, and equal bit for bit where one tile covers them."""

from functools import cache

import numpy as np
import pytest
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig, find_schedule
from flashvsr_trt.config.signatures import COLOR_FIXES, StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.model.color import fix_color, quantise
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.upsample import fit_to_target, upsample
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.tiles import TiledExecutor
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.tiles import in_tiles
from flashvsr_trt.runtime.whole_frames import HostFrames
from tests.golden import golden_preset, load_case
from tests.runtime.test_session import stream_through
from tests.test_golden_end_to_end import network_of

PRESET = golden_preset(AttentionConfig(sparse_ratio=2.0))


@cache
def network() -> Network:
    return network_of(load_case("e2e_official"))


def stream_of(height: int, width: int, schedule: str = "official", scale: int = 2, **options) -> StreamConfig:
    geometry = Geometry(height, width, scale, options.pop("fit", "pad"))
    return StreamConfig(PRESET, geometry, find_schedule(schedule), **options)


def tiled(stream: StreamConfig, tile: tuple[int, int]) -> TiledExecutor:
    plan = TilePlan(stream.geometry, tile)
    return in_tiles(TorchExecutor(network(), plan.tile_stream(stream)), stream, plan)


def untiled(stream: StreamConfig) -> TorchExecutor:
    return TorchExecutor(network(), stream)


def clip(frames: int, height: int, width: int) -> np.ndarray:
    """Waves, edges and fine texture that move, over a gradient: uint8 [frames, height, width, 3]."""
    generator = np.random.default_rng(5)
    texture = generator.normal(0, 12, (height, width + frames, 1))
    rows, columns = np.mgrid[:height, : width + frames][..., None]
    picture = 70 + 80 * columns / width + 35 * np.sin(rows / 5) * np.cos(columns / 7) + texture
    picture = picture + 40 * ((rows // 13 + columns // 17) % 2) + np.array([0, 10, -15])
    bytes_of = np.clip(picture, 0, 255).astype(np.uint8)
    return np.stack([bytes_of[:, at : at + width] for at in range(frames)])


@pytest.mark.parametrize(("schedule", "frames"), [("official", 25), ("low-latency", 5)])
def test_one_tile_that_covers_the_frame_is_the_run_without_tiles(schedule, frames):
    stream = stream_of(120, 97, schedule)
    assert stream.geometry.target == (256, 256)
    shown = clip(frames, 120, 97)
    expected = stream_through(Session(untiled(stream)), shown, push=frames)
    np.testing.assert_array_equal(stream_through(Session(tiled(stream, (256, 256))), shown, frames), expected)


@pytest.mark.parametrize(("size", "scale", "fit"), [((70, 130), 2, "crop"), ((60, 70), 4, "pad")])
def test_counts_sizes_and_latency_are_those_without_tiles(size, scale, fit):
    stream = stream_of(*size, "low-latency", scale, fit=fit)
    session = Session(tiled(stream, (256, 256)))
    frames = clip(6, *size)
    made = [session.push(frame[None]) for frame in frames]
    assert [len(part) for part in made] == [0, 0, 0, 0, 5, 0]
    made = np.concatenate([*made, session.flush()])
    assert made.shape == (6, *stream.geometry.output, 3)


@pytest.mark.parametrize(("scale", "size", "tile"), [(2, (34, 41), (256, 256)), (4, (80, 77), (256, 384))])
def test_frames_of_the_host_are_upscaled_as_the_models_are(scale, size, tile):
    frames = np.random.default_rng(2).integers(0, 256, (2, *size, 3), dtype=np.uint8)
    stream = stream_of(*size, scale=scale)
    plan = TilePlan(stream.geometry, tile)
    expected = fit_to_target(upsample(torch.from_numpy(frames), scale), (0, 0), plan.canvas)
    made = HostFrames(stream, plan).upscale(frames)
    np.testing.assert_array_equal(made, ((expected + 1) * 127.5).round().permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("color_fix", COLOR_FIXES)
def test_frames_of_the_host_are_finished_as_the_models_are(color_fix):
    generator = np.random.default_rng(4)
    stream = stream_of(128, 200, color_fix=color_fix)
    plan = TilePlan(stream.geometry, (256, 256))
    blended = generator.random((8, 3, *plan.canvas), np.float32)
    reference = generator.integers(0, 256, (8, *plan.canvas, 3), dtype=np.uint8)
    host = HostFrames(stream, plan)
    made = host.finish(blended, reference).read()
    wanted = torch.from_numpy(host.condition(reference))
    expected = quantise(fix_color(torch.from_numpy(blended) * 2 - 1, wanted, color_fix)).numpy()
    assert np.abs(made.astype(int) - expected).max() <= 1
    assert (made != expected).mean() < 1e-3


def test_noise_is_the_frames_own_where_tiles_overlap():
    stream = stream_of(100, 300)
    executor = tiled(stream, (256, 256))
    noise = np.random.default_rng(1).normal(size=(2, 16, *stream.geometry.latent)).astype(np.float32)
    canvas = executor._noise_of_canvas(noise)
    rows, columns = noise.shape[2:]
    np.testing.assert_array_equal(canvas[:, :, :rows, :columns], noise)
    assert canvas.shape[2] == 32
