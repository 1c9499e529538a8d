"""Decode, upscale and encode side by side: two threads, two bounded queues, and the caller's session."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np

from flashvsr_trt.errors import TruncatedInputError
from flashvsr_trt.runtime.video.beside import Beside
from flashvsr_trt.runtime.video.info import DecodedFrame, FrameOutput, VideoInput

Item = TypeVar("Item")


class QueueStopped(Exception):  # noqa: N818 (a signal, not an error)
    """The other side has stopped: nothing more comes, or nothing more is wanted."""


class BoundedQueue(Generic[Item]):
    """`put` waits for room and `get` for an item; `stop` wakes both. Used by one writer and one reader."""

    def __init__(self, room: int) -> None:
        self._items: deque[Item] = deque()
        self._room = room
        self._changed = threading.Condition()
        self._stopped = False

    def put(self, item: Item) -> None:
        """Appends an item. Raises QueueStopped after `stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or len(self._items) < self._room)
            if self._stopped:
                raise QueueStopped
            self._items.append(item)
            self._changed.notify_all()

    def get(self) -> Item:
        """Takes the oldest item. Raises QueueStopped after `stop`, whatever is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped or self._items)
            if self._stopped:
                raise QueueStopped
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def stop(self) -> None:
        """Ends the queue for both sides and lets go of its items."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()


DECODED_BATCHES = 2
"""Batches decoded ahead of the session."""

UPSCALED_CHUNKS = 1
"""Chunks that wait for the encoder: at 4x one frame of a 1080p video is 100 MB."""

STOP_SECONDS = 0.5
"""How long a thread that sits in a blocking read or a slow encode is waited for after a stop."""


STAGES = ("read", "wait_for_read", "upscale", "wait_for_write", "write")
"""Where time goes: the decode thread at work; the session waiting for frames, at work, waiting for room to
put frames out; the encode thread at work."""


class Upscaler(Protocol):
    """What the pipeline needs of a session. As many frames come out as went in; some pushes give none."""

    def push(self, frames: np.ndarray) -> np.ndarray:
        """uint8 [n, H, W, 3] in, uint8 [m, H', W', 3] out, m >= 0."""
        ...

    def flush(self) -> np.ndarray:
        """The frames still inside: uint8 [m, H', W', 3]."""
        ...


@dataclass(frozen=True)
class PipelineReport:
    """What a run did. Times are wall seconds; stages overlap, so they do not add up to `seconds`."""

    frames: int
    seconds: float
    stage_seconds: dict[str, float]
    """By STAGES."""
    steady_fps: float | None
    """Frames a second from the first that were ready on; None where too few came later to say."""
    truncated: TruncatedInputError | None
    """Set when the input ended early: the output is complete and kept; raise it when done reporting."""


@dataclass(frozen=True)
class Stamp:
    """When a frame is shown, in units of the input's time base, and what of it went round the session."""

    pts: int
    duration: int
    beside: Beside


class Stage(threading.Thread):
    """A thread that stops both queues and keeps the exception when its work fails."""

    def __init__(self, name: str, work: Callable[[], None], queues: tuple[BoundedQueue, ...]) -> None:
        super().__init__(name=name, daemon=True)
        self._work, self._queues = work, queues
        self.failure: BaseException | None = None

    def run(self) -> None:
        try:
            self._work()
        except QueueStopped:
            return
        except BaseException as failure:
            self.failure = failure
            for queue in self._queues:
                queue.stop()


@contextmanager
def timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    """Adds the wall time of a `with` block to its stage's."""
    began = time.perf_counter()
    try:
        yield
    finally:
        seconds[stage] += time.perf_counter() - began


def upscale_video(
    source: VideoInput,
    session: Upscaler,
    output: FrameOutput,
    *,
    batch: int = 8,
    progress: Callable[[int, int | None], None] | None = None,
) -> PipelineReport:
    """Runs every frame of `source` through `session` into `output`, and finishes `output`.

    `batch` frames are pushed at a time (fewer at the end). `progress(done, total)` is called in the
    caller's thread after each chunk, with the frames encoded; total is None where the input does not say.

    Raises what any stage raised, with its own type, after `output.abort()`; KeyboardInterrupt too. Raises
    RuntimeError when the session gives more or fewer frames than it took.
    """
    started = time.perf_counter()
    decoded: BoundedQueue[list[DecodedFrame] | None] = BoundedQueue(DECODED_BATCHES)
    upscaled: BoundedQueue[tuple[np.ndarray, list[Stamp]] | None] = BoundedQueue(UPSCALED_CHUNKS)
    queues = (decoded, upscaled)
    seconds: dict[str, float] = dict.fromkeys(STAGES, 0.0)
    truncation: list[TruncatedInputError] = []
    ready: list[tuple[float, int]] = []
    encoded = 0

    def decode() -> None:
        while frames := _take(source, batch, seconds, truncation):
            decoded.put(frames)
        decoded.put(None)

    def encode() -> None:
        nonlocal encoded
        while (chunk := upscaled.get()) is not None:
            for pixels, stamp in zip(*chunk, strict=True):
                with timed(seconds, "write"):
                    output.write(pixels, stamp.pts, stamp.duration, stamp.beside)
                encoded += 1
        with timed(seconds, "write"):
            output.finish()

    def hand_on(frames: np.ndarray) -> None:
        if len(frames) > len(stamps):
            raise RuntimeError(f"the session gave {len(frames)} frames, with only {len(stamps)} inside it")
        if len(frames):
            ready.append((time.perf_counter(), len(frames)))
            with timed(seconds, "wait_for_write"):
                upscaled.put((frames, [stamps.popleft() for _ in range(len(frames))]))
        if progress:
            progress(encoded, source.info.frames)

    stages = (Stage("decode", decode, queues), Stage("encode", encode, queues))
    stamps: deque[Stamp] = deque()
    try:
        for stage in stages:
            stage.start()
        while True:
            with timed(seconds, "wait_for_read"):
                frames = decoded.get()
            if frames is None:
                break
            stamps.extend(Stamp(frame.pts, frame.duration, frame.beside) for frame in frames)
            with timed(seconds, "upscale"):
                out = session.push(np.stack([frame.pixels for frame in frames]))
            hand_on(out)
        with timed(seconds, "upscale"):
            out = session.flush()
        hand_on(out)
        if stamps:
            raise RuntimeError(f"the session kept {len(stamps)} frames back after its flush")
        upscaled.put(None)
        _join(stages)
    except BaseException as error:
        for queue in queues:
            queue.stop()
        _join(stages, STOP_SECONDS)
        output.abort()
        failure = next((stage.failure for stage in stages if stage.failure), None)
        if isinstance(error, QueueStopped) and failure:
            # What caused it tells a reader that has gone from a disk that is full.
            raise failure from failure.__cause__
        raise
    if progress:
        progress(encoded, encoded)
    ended = time.perf_counter()
    return PipelineReport(
        frames=encoded,
        seconds=ended - started,
        steady_fps=_steady_fps(ready, encoded, ended),
        stage_seconds=seconds,
        truncated=truncation[0] if truncation else None,
    )


LEAST_CHUNKS = 4
"""Chunks that a steady pace shows in: of fewer, some were begun together."""


def _steady_fps(ready: Sequence[tuple[float, int]], frames: int, ended: float) -> float | None:
    """`ready`: when each chunk's frames were there, and how many."""
    if len(ready) < LEAST_CHUNKS:
        return None
    since, before = ready[0]
    return (frames - before) / (ended - since)


def _take(
    source: VideoInput, count: int, seconds: dict[str, float], truncation: list[TruncatedInputError]
) -> list[DecodedFrame]:
    """The next `count` frames, or fewer at the end; a truncation ends the video and is kept for later."""
    frames: list[DecodedFrame] = []
    with timed(seconds, "read"):
        while len(frames) < count and not truncation:
            try:
                frame = next(source.frames, None)
            except TruncatedInputError as error:
                truncation.append(error)
                break
            if frame is None:
                break
            frames.append(frame)
    return frames


def _join(stages: tuple[Stage, ...], seconds: float | None = None) -> None:
    """Waits for all stages, at most `seconds` each. Raises what a stage raised when waiting for the end."""
    for stage in stages:
        if stage.ident is not None:
            stage.join(seconds)
    failure = next((stage.failure for stage in stages if stage.failure), None)
    if failure and seconds is None:
        raise failure
