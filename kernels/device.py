"""Which architecture a torch device is: what the tuning table is keyed by."""

import functools

import torch

INTERPRETED = "sm_80"
"""The architecture whose settings CPU tensors take: they only meet a kernel under Triton's interpreter."""


@functools.cache
def architecture_of(device: torch.device) -> str:
    """ "sm_90" for a Hopper device, and so on."""
    if device.type != "cuda":
        return INTERPRETED
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"
