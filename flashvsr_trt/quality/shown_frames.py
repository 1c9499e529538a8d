"""Which frames a page shows, chosen while they stream by: a few spread over the clip, and the worst."""

from dataclasses import dataclass

import numpy as np

from flashvsr_trt.quality.compare import ComparedFrame

SPREAD_FRAMES = 4
"""At most this many frames evenly apart are kept; of a long clip at least half as many."""


@dataclass(frozen=True)
class ShownFrame:
    """A frame with its pixels in A and B, uint8 RGB [H, W, 3]."""

    frame: ComparedFrame
    a: np.ndarray
    b: np.ndarray


class ShownFrames:
    """Keeps frames 0, n, 2n, ... and doubles n when they are too many: no length is known beforehand."""

    def __init__(self) -> None:
        self._stride = 1
        self._spread: list[ShownFrame] = []
        self._worst: ShownFrame | None = None

    def add(self, frame: ComparedFrame, a: np.ndarray, b: np.ndarray) -> None:
        """Takes the next frame in, uint8 RGB [H, W, 3] twice; the arrays are kept, not copied."""
        shown = ShownFrame(frame, a, b)
        if self._worst is None or frame.quality.luma.psnr < self._worst.frame.quality.luma.psnr:
            self._worst = shown
        if frame.index % self._stride:
            return
        self._spread.append(shown)
        if len(self._spread) > SPREAD_FRAMES:
            self._spread = self._spread[::2]
            self._stride *= 2

    def chosen(self) -> list[ShownFrame]:
        """The spread frames and the one of least luma PSNR, in order, each once."""
        frames = [*self._spread, *([self._worst] if self._worst else [])]
        by_index = {shown.frame.index: shown for shown in frames}
        return [by_index[index] for index in sorted(by_index)]
