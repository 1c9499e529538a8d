"""Frames as they go into a session and come out: in host memory, or as tensors of the executor's device."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from flashvsr_trt.errors import UsageError

HOST, DEVICE = "host", "device"
"""Where a session gives its frames: in numpy arrays, or as the executor has them."""

Frames = Any
"""uint8 [n, H, W, 3] RGB, or one frame [H, W, 3]: an array of numpy, or a tensor of the executor's device."""

_ON_HOST = (1, 3)
"""DLPack's kinds of device that numpy reads: the host, and its memory that is pinned for CUDA."""

NOT_FRAMES = "push numpy arrays, torch tensors, or what has __dlpack__ or __cuda_array_interface__"


class FrameArrays(Protocol):
    """What a session does with frames, in the executor's own kind of array."""

    is_device: bool
    """Whether frames of this kind are where the executor is."""

    def view(self, frames: Any) -> Frames:
        """Frames of any library, without a copy.

        Raises:
            UsageError: they are on another device, or are no array.
        """
        ...

    def copy(self, frames: Frames) -> Frames:
        """A copy that the caller's next writes do not reach."""
        ...

    def stack(self, frames: Sequence[Frames]) -> Frames:
        """Single frames as one array, for the executor's `encode`."""
        ...

    def join(self, parts: Sequence[Frames], size: tuple[int, int]) -> Frames:
        """Frames of (height, width) that the executor made, contiguous; there may be none."""
        ...

    def mark(self) -> Any:
        """The calling thread's place in its work on the device."""
        ...

    def follow(self, mark: Any, frames: Frames = ()) -> None:
        """What the calling thread puts on the device from now on comes after that, and may use `frames`."""
        ...


class NumpyArrays:
    """Implements `FrameArrays` in host memory.

    Args:
        is_device: whether the executor is there too; else it has no frames of its own to give.
    """

    def __init__(self, is_device: bool = True) -> None:
        self.is_device = is_device

    def view(self, frames: Any) -> np.ndarray:
        if isinstance(frames, np.ndarray):
            return frames
        if hasattr(frames, "__dlpack_device__"):
            kind, _ = frames.__dlpack_device__()
            if kind in _ON_HOST:
                return np.from_dlpack(frames)
        elif hasattr(frames, "__array_interface__"):
            return np.asarray(frames)
        elif not hasattr(frames, "__cuda_array_interface__"):
            raise UsageError(f"{type(frames).__name__} is no array of frames; {NOT_FRAMES}")
        raise UsageError(
            f"these frames are on {getattr(frames, 'device', 'a GPU')}, and this backend takes them from "
            "host memory; copy them there, or use backend torch on that GPU"
        )

    def copy(self, frames: np.ndarray) -> np.ndarray:
        return frames.copy()

    def stack(self, frames: Sequence[np.ndarray]) -> np.ndarray:
        return np.stack(frames)

    def join(self, parts: Sequence[np.ndarray], size: tuple[int, int]) -> np.ndarray:
        if len(parts) == 1:
            # As they came: a copy takes a core a third of the time that four GPUs take to make them.
            return np.ascontiguousarray(parts[0])
        return np.concatenate(parts) if parts else np.empty((0, *size, 3), np.uint8)

    def mark(self) -> None:
        """See `FrameArrays.mark`: arrays are there when they are given."""

    def follow(self, mark: None, frames: Frames = ()) -> None:
        """See `FrameArrays.follow`."""
