"""Frames that are torch tensors where the executor is: they go in and come out without visiting the host."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.executor import PendingFrames
from flashvsr_trt.runtime.frames import NOT_FRAMES, Frames
from flashvsr_trt.runtime.torch.copies import caller_stream, hand_over, on_stream, start_download, upload


def give_frames(frames: torch.Tensor, on_device: bool) -> PendingFrames:
    """Frames behind what is on the current stream by now: where they are, or on their way to the host."""
    if not on_device:
        return start_download(frames)
    if not frames.is_cuda:
        return lambda: frames
    made = torch.cuda.Event()
    made.record()

    def read() -> torch.Tensor:
        """At once: what the calling thread puts on its stream from now on comes after them."""
        stream = torch.cuda.current_stream(frames.device)
        stream.wait_event(made)
        frames.record_stream(stream)
        return frames

    return read


class TorchArrays:
    """Implements `runtime.frames.FrameArrays` with tensors of an executor's device.

    Frames are copied on the stream that encodes them, behind the caller's work so far; the caller's next work
    comes after the copy.

    Args:
        encoding: the stream that encodes, None for the caller's.
    """

    is_device = True

    def __init__(self, device: torch.device, encoding: torch.cuda.Stream | None) -> None:
        self.device, self.encoding = device, encoding

    def view(self, frames: Any) -> Frames:
        """See `FrameArrays.view`. Those of the host stay there until they are encoded."""
        if isinstance(frames, np.ndarray):
            return frames
        tensor = as_tensor(frames)
        if tensor.device.type == self.device.type and (not tensor.is_cuda or self._is_on(tensor.device)):
            return tensor
        if not tensor.is_cuda:
            return tensor.numpy()
        raise UsageError(
            f"these frames are on {tensor.device} and this session is on {self.device}; copy them there, or "
            f"open the session with device '{tensor.device}'"
        )

    def copy(self, frames: torch.Tensor) -> torch.Tensor:
        caller, encoding = caller_stream(self.device), self.encoding
        hand_over([frames], caller, encoding)
        with on_stream(encoding):
            own = frames.clone(memory_format=torch.contiguous_format)
        hand_over([], encoding, caller)
        return own

    def stack(self, frames: Sequence[Frames]) -> Frames:
        if all(isinstance(frame, np.ndarray) for frame in frames):
            return np.stack(frames)
        with on_stream(self.encoding):
            return torch.stack([upload(torch.as_tensor(frame), self.device) for frame in frames])

    def join(self, parts: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        """See `FrameArrays.join`. They are the caller's own: it may write into them."""
        none = torch.empty((0, *size, 3), dtype=torch.uint8, device=self.device)
        return torch.cat(list(parts)) if parts else none

    def mark(self) -> torch.cuda.Event | None:
        if self.device.type != "cuda":
            return None
        mark = torch.cuda.Event()
        mark.record(caller_stream(self.device))
        return mark

    def follow(self, mark: torch.cuda.Event | None, frames: Frames = ()) -> None:
        caller = caller_stream(self.device)
        if mark and caller:
            caller.wait_event(mark)
            if isinstance(frames, torch.Tensor):
                frames.record_stream(caller)

    def _is_on(self, device: torch.device) -> bool:
        own = torch.cuda.current_device() if self.device.index is None else self.device.index
        return device.index == own


def as_tensor(frames: Any) -> torch.Tensor:
    """A tensor of the frames' own memory; the current stream comes after what wrote them.

    Raises:
        UsageError: they are no array.
    """
    if isinstance(frames, torch.Tensor):
        return frames.detach()
    if hasattr(frames, "__dlpack__"):
        return torch.from_dlpack(frames)
    if not hasattr(frames, "__cuda_array_interface__"):
        raise UsageError(f"{type(frames).__name__} is no array of frames; {NOT_FRAMES}")
    tensor = torch.as_tensor(frames)
    # torch does not look at the stream that the interface names.
    if writer := frames.__cuda_array_interface__.get("stream"):
        writing = torch.cuda.ExternalStream(writer, device=tensor.device)
        torch.cuda.current_stream(tensor.device).wait_stream(writing)
    return tensor
