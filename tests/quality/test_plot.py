"""The plot is well-formed, tells every frame, and keeps its lines inside."""

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashvsr_trt.quality.page import MAX_POINTS, PANEL_HEIGHT, WIDTH, plot, ticks
from tests.quality.made import comparison


def lines(svg: str) -> list[list[tuple[float, float]]]:
    """Points of each line: luma and RGB of the first panel, then of the second."""
    paths = [
        path.get("d") for path in ElementTree.fromstring(svg).iter("path") if "line" in path.get("class")
    ]
    return [[tuple(map(float, point)) for point in re.findall(r"[ML]([\d.]+) ([\d.]+)", d)] for d in paths]


def test_each_measure_has_a_line_with_a_point_for_each_frame():
    drawn = lines(plot(comparison([30, 36, 27, 31]).frames, []))
    assert [len(line) for line in drawn] == [4, 4, 4, 4]
    luma = drawn[0]
    assert [x for x, _ in luma] == sorted(x for x, _ in luma)
    # Down is up in SVG: the best frame has the smallest y.
    assert sorted(range(4), key=lambda frame: luma[frame][1]) == [1, 3, 0, 2]


def test_a_shown_frame_is_a_link():
    root = ElementTree.fromstring(plot(comparison([30] * 9).frames, [0, 7]))
    assert [link.get("href") for link in root.iter("a")] == ["#frame-0", "#frame-7"] * 2


def test_an_equal_frame_is_a_gap():
    svg = plot(comparison([30, 31, math.inf, 32]).frames, [])
    assert re.search(r'class="line luma" d="M[^M"]*M[^M"]*"', svg)
    assert [len(line) for line in lines(svg)] == [3, 3, 4, 4]


def test_where_all_frames_are_equal_it_says_so():
    svg = plot(comparison([math.inf] * 3).frames, [])
    assert "all frames are equal" in svg
    assert len(lines(svg)) == 2


def test_a_long_clip_keeps_its_single_worst_frame():
    psnr = [30.0] * 20000
    psnr[12345] = 3.0
    line = lines(plot(comparison(psnr).frames, []))[0]
    assert len(line) <= 2 * MAX_POINTS
    lowest = max(line, key=lambda point: point[1])
    assert lowest[0] / WIDTH == pytest.approx(12345 / 20000, abs=0.03)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-5, 120) | st.just(math.inf), min_size=1, max_size=30))
def test_all_points_are_inside(psnr):
    svg = plot(comparison(psnr).frames, [0])
    for line in lines(svg):
        assert all(0 <= x <= WIDTH and 0 <= y <= PANEL_HEIGHT for x, y in line)


@given(st.floats(-100, 100), st.floats(1e-3, 200))
def test_ticks_are_few_round_and_inside(low, span):
    found = ticks(low, low + span)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-6 <= tick <= low + span + 1e-6 for tick in found)
