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
    stream: StreamConfig, options: TileOptions, estimate: Estimate, free: int, place: str, notify: Notify
) -> TilePlan | None:
    """The tiles of a stream, announced in one line; None where it runs in one piece.

    Args:
        free: bytes that are free in `place` ("cuda:0", "this machine"), of which `options.vram` may be taken.

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
    if plan is None or (needed := estimate(stream, plan).total) > budget:
        if plan and (fitting or whole_fits):
            smaller = words(fitting) if fitting else "off"
            raise UsageError(
                f"--tile {words(plan)} needs about {needed / GIB:.2f} GiB and there are "
                f"{budget / GIB:.2f} GiB for it; --tile {smaller} would fit"
            )
        if budget == options.vram:
            raise UsageError(f"--vram {_too_little(budget, stream, plans or [None], estimate)}")
        raise DeviceError(f"{place}: {_too_little(budget, stream, plans or [None], estimate)}")
    count = f"{len(plan.tiles)} tile{'s' * (len(plan.tiles) > 1)}"
    notify(f"{count} of {words(plan)}: about {needed / GIB:.2f} GiB of {budget / GIB:.2f} GiB")
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
    how = f"in {len(least.tiles)} tiles of {words(least)}" if least else "in one piece"
    least_gib = math.ceil(needed / GIB * 100) / 100
    return f"{budget / GIB:.2f}G is too little: the least that this stream needs is {least_gib:.2f}G, {how}"
