"""Which frames are kept for a page while a clip streams by."""

import numpy as np
import pytest

from flashvsr_trt.quality.page import SPREAD_FRAMES, ShownFrames
from tests.quality.made import compared_frame

PIXELS = np.zeros((1, 1, 3), np.uint8)


def chosen(psnr):
    shown = ShownFrames()
    for index, value in enumerate(psnr):
        shown.add(compared_frame(index, value), PIXELS, PIXELS)
    return [pair.frame.index for pair in shown.chosen()]


@pytest.mark.parametrize("count", [1, 3, SPREAD_FRAMES, SPREAD_FRAMES + 1, 100, 1001])
def test_frames_are_evenly_apart_and_few(count):
    indices = chosen([30] * count)
    assert min(count, SPREAD_FRAMES // 2 + 1) <= len(indices) <= SPREAD_FRAMES
    assert indices[0] == 0
    assert len(set(np.diff(indices))) <= 1
    assert count == 1 or indices[-1] >= count // 2 - 1


def test_the_worst_frame_is_among_them_once():
    psnr = [30] * 100
    psnr[77] = 20
    assert chosen(psnr).count(77) == 1
    psnr[0] = 10
    assert chosen(psnr).count(0) == 1
    assert 77 not in chosen(psnr)


def test_a_clip_that_worsens_keeps_its_last_frame():
    assert chosen(range(60, 0, -1))[-1] == 59
