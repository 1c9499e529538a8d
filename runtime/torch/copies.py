"""Copies between host and GPU that do not make the host wait: through pinned memory."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from flashvsr_trt.runtime.executor import PendingFrames


def start_download(frames: torch.Tensor) -> PendingFrames:
    """The frames in host memory, at once if they are there already, else on their way into pinned memory."""
    if not frames.is_cuda:
        return frames.numpy
    # torch keeps pinned memory for the next call, so only the first ones allocate.
    pinned = torch.empty(frames.shape, dtype=frames.dtype, pin_memory=True)
    pinned.copy_(frames, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()

    def read() -> np.ndarray:
        arrived.synchronize()
        return pinned.numpy()

    return read


def upload(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on the device. A copy from pageable memory would wait for all the work before it."""
    return pin(value, device).to(device, non_blocking=True)


def pin(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host in pinned memory if the device is a GPU; anything else as it is."""
    return value.pin_memory() if device.type == "cuda" and not value.is_cuda else value


def caller_stream(device: torch.device) -> torch.cuda.Stream | None:
    """The calling thread's stream of a GPU; None of a CPU."""
    return torch.cuda.current_stream(device) if device.type == "cuda" else None


def on_stream(stream: torch.cuda.Stream | None) -> AbstractContextManager[object]:
    """Work goes on a stream of a GPU. For None torch would start CUDA, which a CPU's work has no use of."""
    return torch.cuda.stream(stream) if stream else nullcontext()


def hand_over(
    tensors: Iterable[torch.Tensor], giver: torch.cuda.Stream | None, taker: torch.cuda.Stream | None
) -> None:
    """The stream `taker` goes on with tensors of `giver`, behind all that this was given so far.

    Their memory is not given away before `taker` is done with it, whoever drops them first.
    """
    if giver and taker:
        taker.wait_stream(giver)
        for tensor in tensors:
            tensor.record_stream(taker)
