"""Frames through filters of FFmpeg: reads and sets what PyAV has no attribute for, deinterlaces."""

import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from functools import partial
from typing import Generic, TypeVar, cast

import av
from av.filter import Graph
from av.video.reformatter import Interpolation, VideoReformatter

from flashvsr_trt.errors import VideoError
from flashvsr_trt.runtime.video.ffmpeg_log import information_logged

UNSPECIFIED = "unspecified"
PROBE_SIDES = (16, 32)
"""Of the tiny frame whose properties are read; it is never the frame itself, whichever size that has."""


class FrameFilter:
    """One of FFmpeg's filters that gives a frame for a frame and copies no pixels: setparams, crop."""

    def __init__(self, name: str, **options: str) -> None:
        self._name, self._options = name, options
        self._graph: ChangingGraph[av.VideoFrame] = ChangingGraph()

    def through(self, frame: av.VideoFrame) -> av.VideoFrame:
        """The frame behind the filter; times, matrix and range stay as they were."""
        make = partial(one_filter, frame, self._name, **self._options)
        (changed,) = self._graph.through(frame, layout_of(frame), make)
        keep_times(frame, changed)
        return changed


Frame = TypeVar("Frame", av.VideoFrame, av.AudioFrame)


class ChangingGraph(Generic[Frame]):
    """A graph that is made anew where the kind of what goes in changes; what is inside comes out first."""

    def __init__(self) -> None:
        self._graph: Graph | None = None
        self._kind: tuple | None = None

    def through(self, frame: Frame, kind: tuple, make: Callable[[], Graph]) -> Iterator[Frame]:
        """What comes out when a frame goes in, by the graph that `make` makes for frames of its kind."""
        if self._graph is None or kind != self._kind:
            yield from self.rest()
            self._graph, self._kind = make(), kind
        self._graph.push(frame)
        yield from self._pulled(self._graph)

    def rest(self) -> Iterator[Frame]:
        """What is still inside at the end."""
        if self._graph is not None:
            self._graph.push(None)
            yield from self._pulled(self._graph)
            self._graph = None

    def _pulled(self, graph: Graph) -> Iterator[Frame]:
        with suppress(BlockingIOError, EOFError):
            while True:
                yield cast(Frame, graph.pull())


def layout_of(frame: av.VideoFrame) -> tuple[int, int, str]:
    """Size and format: one graph serves all frames of the same."""
    return frame.width, frame.height, frame.format.name


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


BWDIF = {"mode": "send_frame", "parity": "auto", "deint": "interlaced"}
"""A frame for each frame, by the field order that it says; progressive frames pass as they are."""


def progressive_frames(
    name: str, frames: Iterator[av.VideoFrame], deinterlace: bool | None
) -> Iterator[av.VideoFrame]:
    """As many frames at the same times, none of them interlaced.

    `deinterlace` True runs FFmpeg's bwdif, False takes interlaced frames as progressive ones. With None they
    raise VideoError. What each frame says counts: headers are often wrong, and broadcasts mix both kinds.
    """
    if deinterlace is None:
        return _refused(name, frames)
    return _deinterlaced(frames) if deinterlace else _declared_progressive(frames)


def _refused(name: str, frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    for index, frame in enumerate(frames):
        if frame.interlaced_frame:
            raise VideoError(
                f"{name}: frame {index} is interlaced; add --deinterlace (FFmpeg's bwdif), or "
                "--no-deinterlace where its frames are whole pictures all the same"
            )
        yield frame


def _declared_progressive(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    progressive = FrameFilter("setparams", field_mode="prog")
    for frame in frames:
        yield progressive.through(frame) if frame.interlaced_frame else frame


def _deinterlaced(frames: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    graph: ChangingGraph[av.VideoFrame] = ChangingGraph()
    inside: deque[av.VideoFrame] = deque()

    def finished(made: Iterator[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Frames that come out, with the times and colours of those that went in."""
        for frame in made:
            keep_times(inside.popleft(), frame)
            yield frame

    for frame in frames:
        inside.append(frame)
        make = partial(one_filter, frame, "bwdif", **BWDIF)
        yield from finished(graph.through(frame, layout_of(frame), make))
    yield from finished(graph.rest())
