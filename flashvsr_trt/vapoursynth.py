"""FlashVSR in VapourSynth: `flashvsr_trt.vapoursynth.upscale(clip)`, an RGB24 clip in, an RGB24 clip out."""

import threading
from typing import Any

import numpy as np
import vapoursynth as vs

from flashvsr_trt.config.presets import UNIT_FRAMES
from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.upscaler import Upscaler

LEAD_IN = 4 * UNIT_FRAMES
"""A stream that restarts for frame n begins so many frames before: what attention sees is there by then."""

SKIPPED = 4 * UNIT_FRAMES
"""Frames that may be left out before a stream restarts rather than work through them."""

KEPT = 32
"""Frames that were made are kept for requests that come late, for each thread one more."""


def upscale(clip: vs.VideoNode, **options: Any) -> vs.VideoNode:
    """Upscale a clip as a stream, with the properties of its frames kept.

    VapourSynth asks for frames in any order. Those asked for in order, a few of them left out or late, are
    the frames that `flashvsr-trt run` makes. Any other request restarts the stream LEAD_IN frames before, at
    a multiple of 8, and a message says so.

    Args:
        clip: of constant format RGB24 and constant size.
        options: of `Upscaler`, as `preset="nano", scale=4`.

    Raises:
        vapoursynth.Error: a clip of another format.
        FlashVSRError: one of its kinds, where frames of this size cannot be upscaled here.
    """
    _check(clip)

    def say(line: str) -> None:
        vs.core.log_message(vs.MESSAGE_TYPE_WARNING, f"flashvsr_trt: {line}")

    upscaler = Upscaler(**options, notify=say)
    stream = ClipStream(clip, upscaler.session(clip.height, clip.width), say)
    height, width = stream.session.stream.geometry.output
    blank = clip.std.BlankClip(width=width, height=height, keep=True)

    def frame(n: int, f: list[vs.VideoFrame]) -> vs.VideoFrame:
        made, (empty, source) = stream.frame(n), f
        target = empty.copy()
        for plane in range(3):
            np.copyto(np.asarray(target[plane]), made[:, :, plane])
        target.props.clear()
        target.props.update(source.props)
        return target

    return blank.std.ModifyFrame([blank, clip], frame)


def _check(clip: vs.VideoNode) -> None:
    if not isinstance(clip, vs.VideoNode):
        raise vs.Error(f"flashvsr_trt: {type(clip).__name__} is no video clip")
    if clip.format is None or clip.format.id == vs.NONE or not clip.width or not clip.height:
        raise vs.Error("flashvsr_trt: a clip of variable format or size cannot be upscaled; resize it first")
    if clip.format.id != vs.RGB24:
        matrix = ', matrix_in_s="709"' if clip.format.color_family == vs.YUV else ""
        raise vs.Error(
            f"flashvsr_trt: the clip is {clip.format.name} and must be RGB24; "
            f"use clip.resize.Bicubic(format=vs.RGB24{matrix})"
        )


class ClipStream:
    """One clip's frames through one session, by number."""

    def __init__(self, clip: vs.VideoNode, session: Session, say: Any) -> None:
        self.clip, self.session, self.say = clip, session, say
        self.lock = threading.Lock()
        self.kept = KEPT + vs.core.num_threads
        self._restart(0)

    def frame(self, n: int) -> np.ndarray:
        """Upscaled frame n, uint8 [H, W, 3]. Frames before it are worked through first where they must be."""
        with self.lock:
            if n not in self.made and (n < self.given or n > self.taken + SKIPPED):
                start = max(0, n - LEAD_IN) // UNIT_FRAMES * UNIT_FRAMES
                self.say(f"frame {n} is out of order: the stream restarts at frame {start}")
                self.session.reset()
                self._restart(start)
            while n not in self.made:
                self._work()
            frame = self.made[n]
            for old in [number for number in self.made if number < n - self.kept]:
                del self.made[old]
            return frame

    def _restart(self, start: int) -> None:
        """`taken` frames went into the session, `given` came out; both are numbers of the next."""
        self.taken = self.given = start
        self.made: dict[int, np.ndarray] = {}

    def _work(self) -> None:
        stop = min(self.taken + UNIT_FRAMES, self.clip.num_frames)
        if stop == self.taken:
            if self.session.flushed:
                raise UsageError("the clip gave fewer frames than it has")
            made = self.session.flush()
        else:
            made = self.session.push(np.stack([pixels(self.clip, n) for n in range(self.taken, stop)]))
            self.taken = stop
        for frame in made:
            self.made[self.given] = frame
            self.given += 1


def pixels(clip: vs.VideoNode, n: int) -> np.ndarray:
    """Frame n of a clip in RGB24, uint8 [H, W, 3]."""
    with clip.get_frame(n) as frame:
        return np.stack([np.asarray(frame[plane]) for plane in range(3)], axis=-1)
