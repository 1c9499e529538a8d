"""What a frame holds that the network does not take: samples deeper than 8 bits, and alpha.

The network reads and writes 8-bit RGB. What rounding to 8 bits took from a deeper input, and its alpha, go
round the network: they are upscaled bicubically by FFmpeg's scaler and joined with the network's result.
"""

from dataclasses import dataclass

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from flashvsr_trt.runtime.video.color import LEVEL, WHITE

HALF = LEVEL // 2
"""A remainder of 0: remainders are stored as bytes with this added."""

BICUBIC = Interpolation.BICUBIC | Interpolation.ACCURATE_RND


@dataclass(frozen=True)
class Beside:
    """Of one frame of [H, W] pixels."""

    remainder: np.ndarray | None = None
    """uint8 [H, W, 3]: 16-bit RGB less the network's 8-bit pixels times LEVEL, plus HALF."""
    alpha: np.ndarray | None = None
    """uint8 or uint16 [H, W]: opaque is the highest number."""
    carrier: av.VideoFrame | None = None
    """A tiny picture that carries captions and the like; see `carried_side_data`."""


NOTHING = Beside()


def split(deep: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint16 RGB [H, W, 3] -> the nearest 8-bit pixels and the remainder, both uint8 [H, W, 3]."""
    total = np.minimum(deep, WHITE + HALF - 1) + np.uint16(HALF)
    return (total >> 8).astype(np.uint8), (total & 0xFF).astype(np.uint8)


def join(pixels: np.ndarray, remainder: np.ndarray) -> np.ndarray:
    """`split` undone: uint8 [H, W, 3] twice -> uint16 RGB [H, W, 3]."""
    total = pixels.astype(np.uint16)
    total <<= 8
    total |= remainder
    np.maximum(total, HALF, out=total)
    total -= HALF
    return total


class BesideUpscaler:
    """Brings what is beside a frame to the output's size.

    `upscaled` is (height, width) of the whole upscaled frame; the output of `size` is its middle.
    """

    def __init__(self, upscaled: tuple[int, int], size: tuple[int, int]) -> None:
        self._upscaled, self._size = upscaled, size
        self._top, self._left = ((whole - part) // 2 for whole, part in zip(upscaled, size, strict=True))
        self._remainders, self._alphas = VideoReformatter(), VideoReformatter()

    def remainder(self, remainder: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> uint8 [H', W', 3]."""
        # As planes of yuv444p the three are scaled each for itself: RGB would go through YUV.
        planes = np.ascontiguousarray(remainder.transpose(2, 0, 1))
        scaled = self._scale(planes, "yuv444p", self._remainders)
        return np.ascontiguousarray(scaled.transpose(1, 2, 0))

    def alpha(self, alpha: np.ndarray) -> np.ndarray:
        """[H, W] -> [H', W'] of the same type."""
        return self._scale(alpha, "gray16le" if alpha.dtype == np.uint16 else "gray", self._alphas)

    def _scale(self, samples: np.ndarray, pixel_format: str, reformatter: VideoReformatter) -> np.ndarray:
        height, width = self._upscaled
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(samples), format=pixel_format)
        scaled = reformatter.reformat(frame, width, height, interpolation=BICUBIC).to_ndarray()
        rows = slice(self._top, self._top + self._size[0])
        columns = slice(self._left, self._left + self._size[1])
        return scaled[..., rows, columns]
