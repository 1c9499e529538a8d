"""Where a rank's time goes while all stages overlap: its kernels, and when nothing but transfers ran."""

from collections.abc import Iterable

import torch
from torch.autograd import DeviceType

LONGEST = 40
"""Kernels of a table."""

TRANSFERS = ("nccl", "gloo", "c10d")


def kernel_profile(recorded: torch.profiler.profile, chunks: int) -> dict:
    """Milliseconds a chunk: of the longest kernels, and of the time in which what kind of them ran.

    On a CPU operators stand for kernels.
    """
    kind = DeviceType.CUDA if torch.cuda.is_available() else DeviceType.CPU
    kernels = [event for event in recorded.key_averages() if event.device_type == kind]
    times = {event.key: event.self_device_time_total or event.self_cpu_time_total for event in kernels}
    counts = {event.key: event.count for event in kernels}
    spans = [
        (event.name, event.time_range.start, event.time_range.end)
        for event in recorded.events()
        if event.device_type == kind
    ]
    everything = covered((start, end) for _, start, end in spans)
    computing = covered((start, end) for name, start, end in spans if not is_transfer(name))
    lasted = max(end for _, _, end in spans) - min(start for _, start, _ in spans)
    per_chunk = 1e3 * chunks
    return {
        "ms_per_chunk": lasted / per_chunk,
        "ms_transfer_kernels": sum(time for name, time in times.items() if is_transfer(name)) / per_chunk,
        "ms_only_transfers": (everything - computing) / per_chunk,
        "ms_idle": (lasted - everything) / per_chunk,
        "kernels": [
            {"ms": times[name] / per_chunk, "launches": counts[name] / chunks, "name": name}
            for name in sorted(times, key=times.__getitem__, reverse=True)[:LONGEST]
        ],
    }


def is_transfer(kernel: str) -> bool:
    """Whether a kernel waits for, or sends to, other ranks."""
    return any(name in kernel.lower() for name in TRANSFERS)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """How long at least one span lasts."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def profile_table(profile: dict) -> str:
    """A profile as text."""
    lines = [
        f"rank 0: {profile['ms_per_chunk']:.2f} ms a chunk while recorded; transfers' kernels "
        f"{profile['ms_transfer_kernels']:.2f} ms, nothing but these {profile['ms_only_transfers']:.2f} ms, "
        f"no kernel {profile['ms_idle']:.2f} ms",
        "ms/chunk launches  kernel",
        *(f"{row['ms']:8.2f} {row['launches']:8.1f}  {row['name'][:120]}" for row in profile["kernels"]),
    ]
    return "\n".join(lines) + "\n"
