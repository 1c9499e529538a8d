"""Whole frames: upscaled before they are cut into tiles, finished once these are blended. Here in numpy.

The integer arithmetic of upscaling is that of `model/upsample.py`, and so are its bytes.
"""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from flashvsr_trt.config.pictures import EPSILON, FIXED_POINT_BITS, WAVELET_LEVELS, bicubic_weights, first_tap
from flashvsr_trt.config.presets import UNIT_FRAMES
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import Tile, TilePlan
from flashvsr_trt.runtime.executor import DeviceTensor, PendingFrames
from flashvsr_trt.runtime.frames import Frames


class WholeFrames(Protocol):
    """What is done with whole frames before they are cut and after they are blended, where the executor is.

    `keeps_conditions`: whether conditions stay as encoding made them, and are not cut out again for decoding.
    """

    keeps_conditions: bool

    def upscale(self, frames: Frames) -> Any:
        """uint8 [n, H, W, 3] -> uint8 [n, *canvas, 3], upscaled and fitted, to encode them."""
        ...

    def kept(self, frames: Frames, upscaled: Any) -> Frames:
        """What is kept of frames until they are decoded: themselves, or upscaled."""
        ...

    def reference(self, kept: Frames) -> Any:
        """As `upscale`, of what was kept, to decode by."""
        ...

    def condition(self, frames: Any) -> DeviceTensor:
        """Of one tile, uint8 [8, h, w, 3]: float32 [8, 3, h, w] in [-1, 1]."""
        ...

    def blank(self) -> Any:
        """float32 [8, 3, *canvas]: nothing, to which tiles are added."""
        ...

    def add(self, blended: Any, tile: Tile, weight: np.ndarray, frames: Any) -> None:
        """Add a tile's decoded frames, weighted."""
        ...

    def finish(self, blended: Any, reference: Any, on_device: bool = False) -> PendingFrames:
        """Blended frames, about [0, 1], and the upscaled ones, uint8 -> colour fix, bytes [8, *canvas, 3].

        These come to the host or stay on the device, as `Executor.start_decode` says.
        """
        ...


class HostFrames:
    """Implements `WholeFrames`. Frames are worked on side by side, one a thread."""

    keeps_conditions = True

    def __init__(self, stream: StreamConfig, plan: TilePlan) -> None:
        self.geometry, self.color_fix, self.canvas = stream.geometry, stream.color_fix, plan.canvas
        self.padding = (0, 0), *((0, beyond) for beyond in plan.padding)
        self.threads = ThreadPoolExecutor(min(UNIT_FRAMES, os.cpu_count() or 1))

    def upscale(self, frames: np.ndarray) -> np.ndarray:
        return self._each(self._upscale, frames)

    def _upscale(self, frame: np.ndarray) -> np.ndarray:
        top, left = self.geometry.crop_corner
        height, width = self.canvas
        scale = self.geometry.scale
        wide = upsample_axis(frame.astype(np.int32), scale, axis=1)
        upscaled = upsample_axis(wide, scale, axis=0).astype(np.uint8)
        upscaled = upscaled[top : top + height, left : left + width]
        beyond = [(0, height - upscaled.shape[0]), (0, width - upscaled.shape[1]), (0, 0)]
        return np.pad(upscaled, beyond, mode="edge")

    def kept(self, frames: np.ndarray, upscaled: np.ndarray) -> np.ndarray:
        """See `WholeFrames.kept`. Upscaling takes longer here than memory is dear."""
        return upscaled

    def reference(self, kept: np.ndarray) -> np.ndarray:
        return kept

    def condition(self, frames: np.ndarray) -> DeviceTensor:
        return signed(frames)

    def blank(self) -> np.ndarray:
        return np.zeros((UNIT_FRAMES, 3, *self.canvas), np.float32)

    def add(self, blended: np.ndarray, tile: Tile, weight: np.ndarray, frames: PendingFrames) -> None:
        rows, columns = tile.pixels
        blended[:, :, rows, columns] += frames() * weight

    def finish(self, blended: np.ndarray, reference: np.ndarray, on_device: bool = False) -> PendingFrames:
        finished = self._each(self._finish, zip(blended, reference, strict=True))
        return lambda: finished

    def _finish(self, pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        frame, reference = pair[0] * 2 - 1, signed(pair[1][None])[0]
        frame, reference = (np.pad(x, self.padding, mode="edge") for x in (frame, reference))
        fixed = fix_color(frame, reference, self.color_fix)[:, : self.canvas[0], : self.canvas[1]]
        return ((fixed.clip(-1, 1) + 1) * np.float32(127.5)).astype(np.uint8).transpose(1, 2, 0)

    def _each(self, work: Callable, frames: Iterable) -> np.ndarray:
        return np.stack(list(self.threads.map(work, frames)))


def signed(frames: np.ndarray) -> np.ndarray:
    """uint8 [n, h, w, 3] -> float32 [n, 3, h, w] in [-1, 1]."""
    return np.ascontiguousarray(frames.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - np.float32(1)


def upsample_axis(x: np.ndarray, scale: int, axis: int) -> np.ndarray:
    """`model.upsample.upsample_axis_8bit` of int32 [h, w, 3] along axis 0 or 1: PIL's, bit for bit."""
    size = x.shape[axis]
    wide = np.empty((*x.shape[:axis], size, scale, *x.shape[axis + 1 :]), np.int32)
    source = np.arange(size)
    column = (1,) * axis + (size,) + (1,) * (x.ndim - 1 - axis)
    for phase in range(scale):
        first = first_tap(phase, scale)
        total = np.full(x.shape, 1 << (FIXED_POINT_BITS - 1), np.int32)
        for tap, weight in enumerate(bicubic_weights(size, phase, scale)):
            # A tap outside the frame weighs nothing: any pixel will do.
            total += x.take(source + first + tap, axis, mode="clip") * weight.reshape(column)
        wide[(slice(None),) * (axis + 1) + (phase,)] = (total >> FIXED_POINT_BITS).clip(0, 255)
    return wide.reshape(*x.shape[:axis], size * scale, *x.shape[axis + 1 :])


def fix_color(frame: np.ndarray, reference: np.ndarray, method: str) -> np.ndarray:
    """`model.color.fix_color` of one frame [3, H, W] float32, without its clamp."""
    if method == "adain":
        (mean, deviation), (wanted_mean, wanted_deviation) = _statistics(frame), _statistics(reference)
        return (frame - mean) / deviation * wanted_deviation + wanted_mean
    if method == "wavelet":
        return frame - _low_frequencies(frame) + _low_frequencies(reference)
    return frame


def _statistics(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, variance = x.mean(axis=(1, 2), keepdims=True), x.var(axis=(1, 2), keepdims=True)
    return mean, np.sqrt(variance + np.float32(EPSILON))


def _low_frequencies(x: np.ndarray) -> np.ndarray:
    for level in range(WAVELET_LEVELS):
        apart = 2**level
        for axis in (1, 2):
            size = x.shape[axis]
            place = np.arange(size)
            sides = (x.take(place + by, axis, mode="clip") for by in (-apart, apart))
            x = (x + sum(sides) / 2) / 2
    return x
