"""Properties of a frame that PyAV has no attribute for: read and set through FFmpeg's filters."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction

import av
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter

UNSPECIFIED = "unspecified"
PROBE_SIDES = (16, 32)
"""Of the tiny frame whose properties are read; it is never the frame itself, whichever size that has."""


class FrameParameters:
    """Sets parameters of FFmpeg's `setparams` filter, such as chroma_location=left, on frames.

    Pixels are neither copied nor changed. One graph serves all frames of one size and format.
    """

    def __init__(self, **parameters: str) -> None:
        self._parameters = parameters
        self._graph, self._layout = None, None

    def set_on(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The same pixels and times with the parameters; matrix and range stay as they were."""
        layout = (frame.width, frame.height, frame.format.name)
        if layout != self._layout:
            self._graph, self._layout = one_filter(frame, "setparams", **self._parameters), layout
        self._graph.push(frame)
        changed = self._graph.pull()
        changed.colorspace, changed.color_range = frame.colorspace, frame.color_range
        changed.duration = frame.duration
        if frame.time_base:
            changed.time_base = frame.time_base
        return changed


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
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        with av.logging.Capture() as messages:
            yield messages
    finally:
        av.logging.set_level(level)
