"""What only rank 0 has of a stage's inputs, shared by rows, and the frames that all ranks made, on rank 0."""

from collections.abc import Mapping
from typing import Any

import torch

from flashvsr_trt.config.signatures import TensorSpec
from flashvsr_trt.model.communicator import Communicator, gather, scatter
from flashvsr_trt.model.sharding import Sharding, length
from flashvsr_trt.runtime.torch.copies import upload

INPUTS, FRAMES = "inputs", "frames"
"""What is sent before and after a stage's step, and not captured with it: each has its own communicator."""

FRAMES_OUT = "frames_out"
SCATTERED: Mapping[str, str] = {"frames": "frames_in", "noise": "noise"}
"""Inputs that are shared by rows, and the kinds of traffic that this is. Of others every rank is told."""


def scatter_rows(
    communicator: Communicator,
    sharding: Sharding,
    spec: TensorSpec,
    whole: Any,
    device: torch.device,
) -> torch.Tensor:
    """What a rank has of an input: its rows, on its device, of SCATTERED, which rank 0 has in host memory.

    Of other inputs, and in a process alone, it has all as it was given.
    """
    if sharding.size == 1 or spec.name not in SCATTERED:
        return whole
    axis = spec.layout.lower().split().index("h")
    runs = sharding.lr_rows if spec.name == "frames" else sharding.latent_rows
    parts = None
    if whole is not None:
        whole = upload(whole, device)
        parts = [whole.narrow(axis, run.start, length(run)).contiguous() for run in runs]
    shape = (*spec.shape[:axis], length(runs[communicator.rank]), *spec.shape[axis + 1 :])
    like = torch.empty(shape, dtype=getattr(torch, spec.dtype), device=device)
    return scatter(communicator, parts, like, SCATTERED[spec.name])


def gather_rows(communicator: Communicator, sharding: Sharding, frames: torch.Tensor) -> torch.Tensor | None:
    """Every rank's rows of frames [T, h, W, 3] as whole frames on rank 0; None elsewhere."""
    if sharding.size == 1:
        return frames
    shapes = [(len(frames), length(run), *frames.shape[2:]) for run in sharding.pixel_rows]
    parts = gather(communicator, frames, shapes, FRAMES_OUT)
    return None if parts is None else torch.cat(parts, dim=1)
