"""Upscale a camera as it runs, and leave out the frames that come too fast for this machine.

python examples/camera.py /dev/video0 | ffplay -f rawvideo -pixel_format rgb24 -video_size 1280x960 -

A video file, or an rtsp:// address, is played as a camera would.
"""

import argparse
import asyncio
import functools
import itertools
import sys
import time
from collections.abc import AsyncIterator, Callable

import av
import numpy as np

from flashvsr_trt import Upscaler


def play(source: str, most: int, offer: Callable[[np.ndarray | None], object]) -> None:
    """Offer frames when they are due, and None at the end."""
    started = time.monotonic()
    with av.open(source, format="v4l2" if source.startswith("/dev/") else None) as camera:
        for frame in itertools.islice(camera.decode(video=0), most):
            time.sleep(max(0.0, started + (frame.time or 0.0) - time.monotonic()))
            offer(frame.to_ndarray(format="rgb24"))
    offer(None)


async def frames_of(source: str, most: int) -> AsyncIterator[np.ndarray]:
    newest: asyncio.Queue = asyncio.Queue(maxsize=8)

    def offer(frame: np.ndarray | None) -> None:
        if newest.full():  # what nobody took makes room for the next
            newest.get_nowait()
        newest.put_nowait(frame)

    loop = asyncio.get_running_loop()
    offering = functools.partial(loop.call_soon_threadsafe, offer)
    reading = asyncio.create_task(asyncio.to_thread(play, source, most, offering))
    while (frame := await newest.get()) is not None:
        yield frame
    await reading


async def show(source: str, most: int, **options: str) -> None:
    with Upscaler(schedule="low-latency", **options) as upscaler:
        async for frames in upscaler.stream(frames_of(source, most)):
            height, width = frames.shape[1:3]
            print(f"{len(frames)} frames of {width}x{height}", file=sys.stderr)
            await asyncio.to_thread(sys.stdout.buffer.write, frames.tobytes())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source")
    parser.add_argument("--preset", default="sparse-2.0")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--frames", type=int, default=sys.maxsize, help="stop after this many")
    chosen = parser.parse_args()
    asyncio.run(show(chosen.source, chosen.frames, preset=chosen.preset, backend=chosen.backend))
