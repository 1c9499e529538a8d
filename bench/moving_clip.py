"""A clip that moves, as frames and as a file."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

RATE = Fraction(24)


def moving_frames(width: int, height: int, count: int) -> np.ndarray:
    """FFmpeg's `testsrc2`: uint8 RGB [count, height, width, 3]."""
    with av.open(f"testsrc2=size={width}x{height}:rate={RATE}", format="lavfi") as source:
        frames = (frame.to_ndarray(format="rgb24") for frame in source.decode(video=0))
        return np.stack([frame for frame, _ in zip(frames, range(count), strict=False)])


def write_clip(frames: np.ndarray, path: Path) -> None:
    """H.264, to be upscaled by the command."""
    with av.open(str(path), "w") as clip:
        video = clip.add_stream("libx264", rate=RATE, options={"crf": "12", "preset": "veryfast"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            clip.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        clip.mux(video.encode(None))
