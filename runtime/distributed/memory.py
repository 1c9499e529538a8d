"""Whether a rank's share of a stream fits its GPU."""

from dataclasses import replace

import torch

from flashvsr_trt.errors import DeviceError
from flashvsr_trt.memory import GIB, Storage, estimate_memory
from flashvsr_trt.model.sharding import Sharding, length
from flashvsr_trt.runtime.torch.device_memory import free_memory
from flashvsr_trt.stage_memory import RankShare


def check_share(sharding: Sharding, rank: int, storage: Storage, device: torch.device, loaded: bool) -> None:
    """Raises DeviceError if a rank's share does not fit its GPU: all weights, and its parts of the rest.

    `loaded`: whether the weights are there already.
    """
    parts = (sharding.rows, sharding.windows(1), sharding.heads)
    share = RankShare(*(length(runs[rank]) / runs[-1].stop for runs in parts))
    storage = replace(storage, loading=0) if loaded else storage
    estimate = estimate_memory(sharding.stream, storage, share=share)
    needed, free = estimate.total - loaded * estimate.weights, free_memory(device)
    if needed > free:
        raise DeviceError(
            f"a share of {needed / GIB:.1f} GiB does not fit the {free / GIB:.1f} GiB that are free on "
            f"{device}; use more ranks, a smaller input or scale, or a narrower --dtype"
        )
