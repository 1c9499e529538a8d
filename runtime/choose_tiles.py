"""Whether a stream runs in tiles, and in which: as asked for, or the least work that fits the memory."""

import math
from collections.abc import Callable, Iterator, Sequence

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import SIZE_MULTIPLE
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import LEAST_SIDE, OVERLAP, TilePlan
from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.memory import GIB, MemoryEstimate, check_fits
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.request import TileOptions

Estimate = Callable[[StreamConfig, TilePlan | None], MemoryEstimate]
"""What a stream needs in these tiles, or with None in one piece."""


def choose_tiles(
    stream: StreamConfig,
    options: TileOptions,
    estimate: Estimate,
    free: int,
    place: str,
    notify: Notify,
    fixed: bool = False,
) -> TilePlan | None:
    """The tiles of a stream, announced in one line; None where it runs in one piece.

    One tile that covers the frame is not run as such, however large it is: the frame runs in one piece. Where
    tiles are `fixed` it is.

    Args:
        free: bytes that are free in `place` ("cuda:0", "this machine"), of which `options.vram` may be taken.
        fixed: what runs a tile was made for its size, and serves frames of every size.

    Raises:
        UsageError: a tile of a size that none can have, or less `vram` than the least.
        DeviceError: what was asked for does not fit, or nothing does; says what is missing.
    """
    budget = min(free, options.vram or free)
    plans = list(smaller_tiles(stream.geometry))
    whole_fits = estimate(stream, None).total <= budget
    if options.tile == "off" or (options.tile == "auto" and (whole_fits or not plans)):
        if not whole_fits and budget == options.vram:
            raise UsageError(f"--vram {_too_little(budget, stream, [None], estimate)}")
        check_fits(stream, lambda smaller: estimate(smaller, None), budget, place)
        return None
    fitting = next((plan for plan in plans if estimate(stream, plan).total <= budget), None)
    plan = fitting if isinstance(options.tile, str) else TilePlan(stream.geometry, options.tile)
    covers = plan is not None and len(plan.tiles) == 1 and not fixed
    if plan is None or (needed := estimate(stream, None if covers else plan).total) > budget:
        if plan and (fitting or whole_fits):
            smaller = words(fitting) if fitting else "off"
            raise UsageError(
                f"--tile {words(plan)} needs about {needed / GIB:.2f} GiB and there are "
                f"{budget / GIB:.2f} GiB for it; --tile {smaller} would fit"
            )
        if budget == options.vram:
            raise UsageError(f"--vram {_too_little(budget, stream, plans or [None], estimate)}")
        raise DeviceError(f"{place}: {_too_little(budget, stream, plans or [None], estimate)}")
    if covers:
        notify(f"one tile of {words(plan)} covers the frame: it runs in one piece")
        return None
    notify(f"{counted(plan)}: about {needed / GIB:.2f} GiB of {budget / GIB:.2f} GiB")
    return plan


def smaller_tiles(geometry: Geometry) -> Iterator[TilePlan]:
    """Tiles smaller than the frame, those first that are the least work in all, of these the fewest."""
    rows, columns = (_sides(length) for length in geometry.output)
    plans = [TilePlan(geometry, (height, width)) for height in rows for width in columns]
    plans = [plan for plan in plans if len(plan.tiles) > 1]
    yield from sorted(
        plans, key=lambda plan: (len(plan.tiles) * plan.tile[0] * plan.tile[1], len(plan.tiles))
    )


def words(plan: TilePlan) -> str:
    """A tile's size as --tile takes it."""
    return f"{plan.tile[1]}x{plan.tile[0]}"


def counted(plan: TilePlan) -> str:
    """How many tiles of which size, in words."""
    return f"{len(plan.tiles)} tile{'s' * (len(plan.tiles) > 1)} of {words(plan)}"


def as_vram(size: int) -> str:
    """Bytes as a --vram; less than it shows in two decimals are told as bytes, as they were given then."""
    return f"{size / GIB:.2f}G" if size >= GIB / 100 else f"{size} bytes"


def least_vram(needed: int) -> str:
    """The least --vram of two decimals that holds so many bytes."""
    return f"{math.ceil(needed / GIB * 100) / 100:.2f}G"


def _sides(length: int) -> list[int]:
    """The least side of a tile that covers a length in 1, 2, ... tiles, each side once."""
    sides = {
        max(LEAST_SIDE, -(-(length + (count - 1) * OVERLAP) // (count * SIZE_MULTIPLE)) * SIZE_MULTIPLE)
        for count in range(1, length // SIZE_MULTIPLE + 1)
    }
    return sorted(sides, reverse=True)


def _too_little(
    budget: int, stream: StreamConfig, choices: Sequence[TilePlan | None], estimate: Estimate
) -> str:
    needed, number = min((estimate(stream, plan).total, number) for number, plan in enumerate(choices))
    least = choices[number]
    how = f"in {counted(least)}" if least else "in one piece"
    return f"{as_vram(budget)} is too little: the least that this stream needs is {least_vram(needed)}, {how}"
