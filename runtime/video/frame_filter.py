"""Frames through one filter of FFmpeg: what PyAV has no attribute for is read and set so."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
from av import logging as av_logging
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter

UNSPECIFIED = "unspecified"
PROBE_SIDES = (16, 32)
"""Of the tiny frame whose properties are read; it is never the frame itself, whichever size that has."""


class FrameFilter:
    """One of FFmpeg's filters that gives a frame for a frame and copies no pixels: setparams, crop.

    One graph serves all frames of one size and format.
    """

    def __init__(self, name: str, **options: str) -> None:
        self._name, self._options = name, options
        self._graph: Graph | None = None
        self._layout: tuple[int, int, str] | None = None

    def through(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame behind the filter; times, matrix and range stay as they were."""
        layout = (frame.width, frame.height, frame.format.name)
        if self._graph is None or layout != self._layout:
            self._graph, self._layout = one_filter(frame, self._name, **self._options), layout
        self._graph.vpush(frame)
        changed = self._graph.vpull()
        keep_times(frame, changed)
        return changed


def keep_times(source: av.VideoFrame, changed: av.VideoFrame) -> None:
    """Gives a filtered frame the times, matrix and range of the one that went in."""
    changed.colorspace, changed.color_range = source.colorspace, source.color_range
    changed.pts, changed.dts, changed.duration = source.pts, source.dts, source.duration
    if source.time_base:
        changed.time_base = source.time_base


def chroma_location(frame: av.VideoFrame) -> str:
    """Where the frame says that its chroma samples lie: left, center, topleft, ... or unspecified."""
    side = next(side for side in PROBE_SIDES if side != frame.width)
    tiny = VideoReformatter().reformat(frame, side, side, "yuv420p", interpolation=Interpolation.POINT)
    graph = one_filter(tiny, "showinfo", checksum="0")
    with information_logged() as messages:
        graph.push(tiny)
        graph.pull()
    found = re.search(r" cl:(\w+)", "".join(message for _, _, message in messages))
    return found.group(1) if found else UNSPECIFIED


def one_filter(frame: av.VideoFrame, name: str, **options: str) -> Graph:
    """A graph of one filter for frames like `frame`."""
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width,
        height=frame.height,
        format=frame.format,
        time_base=frame.time_base or Fraction(1, 1000),
    )
    graph.link_nodes(source, graph.add(name, **options), graph.add("buffersink")).configure()
    return graph


@contextmanager
def information_logged() -> Iterator[list[tuple[int, str, str]]]:
    """What FFmpeg logs in this thread, down to information; PyAV's level is put back afterwards."""
    level = av_logging.get_level()
    av_logging.set_level(av_logging.INFO)
    try:
        with av_logging.Capture() as messages:
            yield messages
    finally:
        av_logging.set_level(level)
