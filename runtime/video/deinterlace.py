"""Interlaced video: refused, deinterlaced, or taken for what it is not.

What counts is what each frame says: headers are often wrong, and broadcasts mix both kinds.
"""

from collections import deque
from collections.abc import Iterator

import av
from av.filter import Graph

from flashvsr_trt.errors import VideoError
from flashvsr_trt.runtime.video.frame_filter import FrameFilter, keep_times, one_filter

BWDIF = {"mode": "send_frame", "parity": "auto", "deint": "interlaced"}
"""A frame for each frame, by the field order that it says; progressive frames pass as they are."""


def progressive_frames(
    name: str, frames: Iterator[av.VideoFrame], deinterlace: bool | None
) -> Iterator[av.VideoFrame]:
    """As many frames at the same times, none of them interlaced.

    `deinterlace` True runs FFmpeg's bwdif, False takes interlaced frames as progressive ones. With None they
    raise VideoError.
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
    graph, layout = None, None
    inside: deque[av.VideoFrame] = deque()
    for frame in frames:
        kind = (frame.width, frame.height, frame.format.name)
        if graph is None or layout != kind:
            yield from _rest(graph, inside)
            graph, layout = one_filter(frame, "bwdif", **BWDIF), kind
        inside.append(frame)
        graph.vpush(frame)
        yield from _ready(graph, inside)
    yield from _rest(graph, inside)


def _ready(graph: Graph, inside: deque[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    """Frames that the filter has finished, with the times and colours of those that went in."""
    while inside:
        try:
            finished = graph.vpull()
        except (BlockingIOError, EOFError):
            return
        source = inside.popleft()
        keep_times(source, finished)
        yield finished


def _rest(graph: Graph | None, inside: deque[av.VideoFrame]) -> Iterator[av.VideoFrame]:
    if graph is not None:
        graph.vpush(None)
        yield from _ready(graph, inside)
