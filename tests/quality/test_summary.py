"""Many frames in a few numbers."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import SCHEDULES, find_preset
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.quality.report import chunk_borders, starts_chunk, summarise
from flashvsr_trt.runtime.frames import NumpyArrays
from flashvsr_trt.runtime.session import Session
from tests.quality.made import compared_frame, comparison


def test_the_mean_is_of_frames_and_the_worst_has_its_number():
    summary = summarise(comparison([30, 36, 27, 31]).frames, "luma_psnr")
    assert (summary.mean, summary.worst, summary.worst_frame, summary.infinite) == (31, 27, 2, 0)
    assert summarise(comparison([30, 36, 27, 31]).frames, "rgb_psnr").mean == 30


def test_equal_frames_are_counted_and_left_out_of_the_mean():
    summary = summarise(comparison([math.inf, 30, math.inf, 34]).frames, "luma_psnr")
    assert (summary.mean, summary.worst, summary.infinite) == (32, 30, 2)


def test_where_all_frames_are_equal_the_mean_is_infinite():
    assert summarise(comparison([math.inf] * 3).frames, "luma_psnr").mean == math.inf


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.name)
def test_chunks_start_where_a_session_starts_them(schedule):
    """Frames of one decoder call carry its number; only the executor's calls decide where it changes."""
    stream = StreamConfig(find_preset("nano"), Geometry(64, 64, 2), schedule)
    session = Session(NumberingExecutor(stream))
    numbers = np.concatenate([session.push(np.zeros((50, 64, 64, 3), np.uint8)), session.flush()])[:, 0, 0, 0]
    changes = {int(index) + 1 for index in np.flatnonzero(np.diff(numbers))}
    assert changes == {index for index in range(50) if starts_chunk(index)}


class NumberingExecutor:
    """Gives each decoded unit frames of one level, its number."""

    overlaps = False
    arrays = NumpyArrays()

    def __init__(self, stream):
        self.stream, self.decoded = stream, 0

    def new_state(self):
        return SimpleNamespace()

    def encode(self, frames, first, state):
        return None, None

    def dit(self, noise, tokens, rope, step, state):
        return [None] * len(tokens)

    def start_decode(self, latent, condition, state, on_device=False):
        self.decoded += 1
        frames = np.full((8, *self.stream.geometry.target, 3), self.decoded, np.uint8)
        return lambda: frames


def test_borders_are_told_from_the_rest():
    psnr = [28.0 if index in (5, 13, 21) else 30.0 for index in range(24)]
    borders = chunk_borders(comparison(psnr).frames)
    assert borders.frames == (5, 13, 21)
    assert (borders.border, borders.rest) == (28, 30)


def test_a_clip_of_one_chunk_has_no_borders():
    assert chunk_borders(comparison([30] * 5).frames) is None
    assert chunk_borders(comparison([30] * 6).frames).frames == (5,)


@given(st.lists(st.floats(0, 100) | st.just(math.inf), min_size=1, max_size=40))
def test_the_mean_lies_between_the_worst_and_the_best(values):
    frames = [compared_frame(index, value) for index, value in enumerate(values)]
    summary = summarise(frames, "luma_psnr")
    assert summary.worst - 1e-9 <= summary.mean <= max(values) + 1e-9
