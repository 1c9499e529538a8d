"""Which rank of a torchrun job this process is, by its environment. Imports no torch."""

import os
import re
from dataclasses import dataclass

from flashvsr_trt.errors import UsageError


@dataclass(frozen=True)
class Place:
    """This process in a torchrun job, from the environment torchrun sets."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def torchrun_place() -> Place | None:
    """None outside torchrun, and in a job of one process, which is a run like any other.

    Raises UsageError where the environment's variables are not what torchrun sets.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    if any(name not in os.environ for name in names):
        return None
    place = Place(*map(_count_from_environment, names))
    if place.rank >= place.size or place.local_rank >= place.local_size or place.local_size > place.size:
        raise UsageError(
            f"the environment says rank {place.rank} of {place.size} and local rank {place.local_rank} of "
            f"{place.local_size}; start the job with torchrun, or unset {', '.join(names)}"
        )
    if (
        place.size > 1
        and "MASTER_PORT" in os.environ
        and not 0 < _count_from_environment("MASTER_PORT") < 2**16
    ):
        raise UsageError(f"MASTER_PORT={os.environ['MASTER_PORT']} is no port; start the job with torchrun")
    return place if place.size > 1 else None


def _count_from_environment(name: str) -> int:
    value = os.environ[name]
    if not re.fullmatch("[0-9]{1,9}", value):
        raise UsageError(f"{name}={value} is no number; start the job with torchrun, or unset {name}")
    return int(value)
