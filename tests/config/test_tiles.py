"""Tiles cover a frame of any size, overlap enough, and weigh 1 in all at every pixel."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import DECODE_TILE, StreamConfig, stage_signatures
from flashvsr_trt.config.tiles import OVERLAP, TilePlan
from flashvsr_trt.errors import UsageError

SIDES = st.integers(2, 8).map(lambda windows: windows * 128)
PLANS = st.builds(
    lambda height, width, scale, fit, tile: TilePlan(Geometry(height, width, scale, fit), tile),
    st.integers(64, 700),
    st.integers(64, 700),
    st.sampled_from([2, 4]),
    st.sampled_from(["pad", "crop"]),
    st.tuples(SIDES, SIDES),
)


@given(PLANS)
def test_weights_are_1_in_all_at_every_pixel_of_the_frame(plan):
    total = np.zeros(plan.canvas)
    for tile, weight in zip(plan.tiles, plan.weights, strict=True):
        assert weight.shape == total[tile.pixels].shape == plan.tile
        assert weight.min() >= 0
        total[tile.pixels] += weight
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert np.all(np.array(plan.canvas) >= plan.geometry.output)


@given(PLANS)
def test_neighbours_overlap_and_lie_on_whole_tokens(plan):
    for starts, tile, length in zip(plan.corners, plan.tile, plan.canvas, strict=True):
        assert starts[0] == 0
        assert starts[-1] + tile == length
        assert all(start % 16 == 0 for start in starts)
        assert all(before + tile - start >= OVERLAP for before, start in pairwise(starts))
        # One tile fewer would not reach that far.
        assert len(starts) == 1 or (len(starts) - 1) * (tile - OVERLAP) + OVERLAP < length


@given(PLANS)
def test_weight_fades_towards_a_neighbour(plan):
    for tile, weight in zip(plan.tiles, plan.weights, strict=True):
        if tile.left:
            assert weight[:, 0].max() < 0.01
        if tile.top + tile.height < plan.canvas[0]:
            assert weight[-1].max() < 0.01


def test_a_tile_of_the_frames_own_size_is_alone_and_weighs_1():
    plan = TilePlan(Geometry(120, 128, 2), (256, 256))
    assert plan.canvas == plan.geometry.target
    assert len(plan.tiles) == 1
    assert plan.weights[0].min() == 1


@pytest.mark.parametrize("tile", [(128, 256), (256, 128), (256, 300), (0, 0)])
def test_other_sizes_are_refused_with_the_nearest(tile):
    with pytest.raises(UsageError, match="the nearest is 256x256"):
        TilePlan(Geometry(360, 640, 2), tile)


def test_the_stream_of_a_tile_is_the_same_for_every_frame_and_scale():
    preset, schedule = find_preset("nano"), find_schedule("official")
    streams = {
        TilePlan(geometry, (256, 384)).tile_stream(StreamConfig(preset, geometry, schedule))
        for geometry in (Geometry(360, 640, 2), Geometry(99, 1000, 4))
    }
    (stream,) = streams
    assert stream.geometry.target == (256, 384)
    assert DECODE_TILE in stage_signatures(stream)


def test_frames_that_are_not_of_8_bits_are_not_cut():
    geometry = Geometry(360, 640, 2)
    stream = StreamConfig(find_preset("nano"), geometry, find_schedule("official"), "torch")
    with pytest.raises(UsageError, match="--upsampler pil"):
        TilePlan(geometry, (256, 256)).tile_stream(stream)
