"""Before and after in one picture: the input by bicubic interpolation left of a line, the upscaled right."""

from collections import deque

import av
import numpy as np

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.runtime.pipeline import Upscaler

LINE_PIXELS = 2
"""Width of the white line between the halves."""


def bicubic(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 RGB [H, W, 3] at `size` (height, width), by FFmpeg's bicubic interpolation."""
    if pixels.shape[:2] == size:
        return pixels
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    scaled = frame.reformat(width=size[1], height=size[0], format="rgb24", interpolation="BICUBIC")
    return scaled.to_ndarray()


def before(pixels: np.ndarray, geometry: Geometry) -> np.ndarray:
    """A frame as it was, at the size and of the part of the output: uint8 RGB [outH, outW, 3]."""
    (top, left), (height, width) = geometry.crop_corner, geometry.output
    return bicubic(pixels, geometry.upscaled)[top : top + height, left : left + width]


class BeforeAndAfter:
    """A session whose frames come out with what they were in their left half."""

    def __init__(self, session: Upscaler, geometry: Geometry) -> None:
        self.session, self.geometry = session, geometry
        self.waiting: deque[np.ndarray] = deque()

    def push(self, frames: np.ndarray) -> np.ndarray:
        self.waiting.extend(frames)
        return self._joined(self.session.push(frames))

    def flush(self) -> np.ndarray:
        return self._joined(self.session.flush())

    def _joined(self, made: np.ndarray) -> np.ndarray:
        joined = np.array(made)
        middle = self.geometry.output[1] // 2
        for frame in joined:
            frame[:, :middle] = before(self.waiting.popleft(), self.geometry)[:, :middle]
            frame[:, middle - LINE_PIXELS // 2 : middle + LINE_PIXELS // 2] = 255
        return joined
