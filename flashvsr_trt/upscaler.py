"""FlashVSR from Python: weights are loaded once, then files, frames as they come, and streams of a server."""

import asyncio
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from flashvsr_trt.errors import SessionError, UsageError, named_missing_parts
from flashvsr_trt.notices import Notify, log_notice
from flashvsr_trt.runtime.distributed.place import torchrun_place
from flashvsr_trt.runtime.executors import Executors
from flashvsr_trt.runtime.frames import HOST, NOT_FRAMES, Frames
from flashvsr_trt.runtime.request import RunOptions, UpscaleOptions, take_precision
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.upscale import upscale_file

Made = TypeVar("Made")


class Upscaler:
    """Upscales on one GPU or a CPU. What is loaded stays until `close`, or the end of its `with` block.

    Clips of one size share an executor, and with torch those of all sizes the network. Streams take turns,
    chunk by chunk; each has its own state, and one for which the device has no room raises DeviceError.

    Args:
        notify: gets one line for each thing a user should know. By default logger `flashvsr_trt` gets it, and
            nothing is printed.
        options: fields of `UpscaleOptions`, which are the command's options: `preset="nano", scale=4`.

    Raises:
        TypeError: an option that there is not.
        UsageError: an option that cannot be used, or several ranks, which only the command serves.
    """

    def __init__(self, *, notify: Notify = log_notice, **options: Any) -> None:
        self.options = UpscaleOptions(**take_precision(options))
        self.options.check()
        if torchrun_place():
            raise UsageError(
                "an Upscaler is one process: share a clip between GPUs with `flashvsr-trt run --gpus`"
            )
        self.notify = notify
        self._executors = Executors(notify)
        self._turn = threading.Lock()
        self._worker = ThreadPoolExecutor(1, "flashvsr")
        self._closed = False

    def close(self) -> None:
        """Let go of all that is loaded, once the streams' last calls are done; sessions stay as they are."""
        self._closed = True
        self._worker.shutdown()
        self._executors.close()

    def __enter__(self) -> "Upscaler":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def session(self, height: int, width: int, *, frames_on: str = HOST, overlap: bool = False) -> Session:
        """A session for one clip of `height` x `width` frames; see `Session` for `frames_on` and `overlap`.

        Sessions of one upscaler are to be used in one thread at a time.

        Raises:
            FlashVSRError: one of its kinds, where the frames cannot be upscaled here.
        """
        self._check_open()
        with named_missing_parts():
            return self._executors.session(self.options, height, width, frames_on=frames_on, overlap=overlap)

    def file(
        self,
        input: str | os.PathLike[str],
        output: str | os.PathLike[str] | None = None,
        *,
        progress: Callable[[int, int | None], None] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Upscale a video file as `flashvsr-trt run` does.

        Args:
            output: None is beside the input, as `clip_2x.mp4`; a folder takes it under that name.
            progress: gets the frames written, and how many there will be where the input says so.
            options: fields of `InputOptions` and `OutputOptions`: `start`, `codec`, `overwrite`, ...

        Returns:
            The report of `--json`. `truncated` is true where the input ended early; `notify` got the reason.

        Raises:
            FlashVSRError: one of its kinds; nothing is left under the output's name.
        """
        self._check_open()
        chosen = RunOptions(**vars(self.options) | {"input": input, "output": output} | options)
        chosen.check()
        with self._turn, named_missing_parts():
            report, truncated = upscale_file(chosen, self.notify, progress, self._executors)
        if truncated:
            self.notify(str(truncated))
        return report

    def frames(self, source: Iterable[Any], *, frames_on: str = HOST) -> Iterator[Frames]:
        """Upscale one clip as it comes.

        Args:
            source: gives frames, uint8 [H, W, 3] RGB, or several at a time [n, H, W, 3]; see `Session.push`.

        Yields:
            Frames as they are ready, uint8 [m, outH, outW, 3]. In all as many as came.

        Raises:
            FlashVSRError: one of its kinds, at the frames that caused it.
        """
        session: Session | None = None
        try:
            for frames in source:
                frames, (height, width) = several(frames)
                if session is None:
                    session = self.session(height, width, frames_on=frames_on, overlap=True)
                yield from some(self._in_turn(session.push, frames))
            if session:
                yield from some(self._in_turn(session.flush))
        finally:
            if session:
                session.close()

    async def stream(
        self, source: AsyncIterable[Any] | Iterable[Any], *, frames_on: str = HOST
    ) -> AsyncIterator[Frames]:
        """Upscale one clip as it comes, beside others; what `frames` takes and gives.

        The network runs in a thread of the upscaler's own. While it does, the next frames are awaited, and no
        more than these: a consumer that is slow slows its source. A stream that is closed or cancelled gives
        its memory back when the call that runs is done. A source that is not asynchronous has a thread.
        """
        batches = aiter(source) if isinstance(source, AsyncIterable) else _read_in_thread(source)
        coming = asyncio.ensure_future(_next(batches))
        session: Session | None = None
        try:
            while (frames := await coming) is not None:
                coming = asyncio.ensure_future(_next(batches))
                frames, (height, width) = several(frames)
                if session is None:
                    opening = partial(self.session, height, width, frames_on=frames_on, overlap=True)
                    session = await self._run(opening)
                for made in some(await self._work(session, session.push, frames)):
                    yield made
            if session:
                for made in some(await self._work(session, session.flush)):
                    yield made
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            if session and self._closed:
                session.close()
            elif session:
                await asyncio.shield(self._run(session.close))

    async def _work(self, session: Session, call: Callable[..., Frames], *frames: Frames) -> Frames:
        """A session's call in the worker, in order with what the event loop's thread puts on the device."""
        arrays, given = session.executor.arrays, session.executor.arrays.mark()

        def work() -> tuple[Frames, Any]:
            arrays.follow(given)
            made = call(*frames)
            return made, arrays.mark()

        made, done = await self._run(work)
        arrays.follow(done, made)
        return made

    def _check_open(self) -> None:
        if self._closed:
            raise SessionError("this upscaler was closed; make a new one")

    async def _run(self, work: Callable[[], Made]) -> Made:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._in_turn, work)

    def _in_turn(self, work: Callable[..., Made], *arguments: Any) -> Made:
        with self._turn:
            return work(*arguments)


def several(frames: Any) -> tuple[Any, tuple[int, int]]:
    """One frame as several, and its height and width. Raises UsageError for what has no shape of frames."""
    shape = getattr(frames, "shape", None) or getattr(frames, "__cuda_array_interface__", {}).get("shape", ())
    if len(shape) == 3:
        frames, shape = frames[None], (1, *shape)
    if len(shape) != 4:
        raise UsageError(f"{type(frames).__name__} of shape {list(shape)} holds no frames; {NOT_FRAMES}")
    return frames, (int(shape[1]), int(shape[2]))


def some(frames: Frames) -> list[Frames]:
    """Frames as a list of one array, or of none where they are none."""
    return [frames] if len(frames) else []


async def _next(batches: AsyncIterator[Any]) -> Any:
    return await anext(batches, None)


async def _read_in_thread(source: Iterable[Any]) -> AsyncIterator[Any]:
    iterator = iter(source)
    while (frames := await asyncio.to_thread(next, iterator, None)) is not None:
        yield frames
