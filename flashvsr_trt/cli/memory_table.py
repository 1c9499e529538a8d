"""How much memory frames take on a GPU, in one piece and in the tiles that `run` would choose."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import click

from flashvsr_trt.cli.terminal import print_table
from flashvsr_trt.config.presets import DEFAULT_PRESET
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import FlashVSRError
from flashvsr_trt.memory import GIB, MemoryEstimate, Parking, largest_that_fits, place_tiles
from flashvsr_trt.runtime.request import TileOptions, UpscaleOptions

INPUTS = {
    "480p": (240, 427),
    "720p": (360, 640),
    "1080p": (540, 960),
    "1440p": (720, 1280),
    "4K": (1080, 1920),
}
"""Heights and widths whose double the outputs of these names are."""

SPEEDS = {
    None: "in one piece: full speed",
    Parking.GPU: "near full speed",
    Parking.RINGS_ON_HOST: "bound by PCIe or by overlaps",
    Parking.HOST: "bound by PCIe",
}


@dataclass(frozen=True)
class Row:
    """A frame under a budget, both in GiB. `tile` is None in one piece; `total` None where nothing fits."""

    output: str
    input: str
    in_one_piece: float
    vram: float
    tile: str | None = None
    tiles: int = 0
    total: float | None = None
    speed: str = "does not fit"
    host: float = 0.0


def memory_rows(budgets: Sequence[int]) -> list[Row]:
    """Each frame under each budget of bytes, with the default preset in bfloat16 at 2x on torch."""
    return [_row(name, size, budget) for name, size in INPUTS.items() for budget in budgets]


def largest_in_one_piece(
    preset: str, estimate: Callable[[StreamConfig, None], MemoryEstimate], budget: int
) -> str | None:
    """WIDTHxHEIGHT of the upscaled frame of 16:9 that fits without tiles; None where none does."""
    largest = UpscaleOptions(preset=preset).stream(4320, 7680)
    found = largest_that_fits(largest, lambda stream: estimate(stream, None), budget)
    return f"{found[1]}x{found[0]}" if found else None


def _row(name: str, size: tuple[int, int], budget: int) -> Row:
    from flashvsr_trt.runtime.choose_tiles import choose_tiles, words

    stream = UpscaleOptions().stream(*size)
    whole = _needed(stream, None).total
    row = Row(name, f"{size[1]}x{size[0]}", whole / GIB, budget / GIB)
    try:
        plan = choose_tiles(stream, TileOptions(), _needed, budget, "", lambda line: None)
    except FlashVSRError:
        return row
    if plan is None:
        return replace(row, tiles=1, total=whole / GIB, speed=SPEEDS[None])
    import torch

    from flashvsr_trt.runtime.torch.device_memory import storage_of

    places = place_tiles(stream, plan, storage_of(stream.preset.network, torch.bfloat16), budget)
    return replace(
        row,
        tile=words(plan),
        tiles=len(plan.tiles),
        total=places.needed.total / GIB,
        host=places.on_host / GIB,
        speed=SPEEDS[places.parking if places.on_host else Parking.GPU],
    )


def _needed(stream: StreamConfig, plan: TilePlan | None) -> MemoryEstimate:
    import torch

    from flashvsr_trt.runtime.torch.device_memory import stream_memory

    return stream_memory(stream, torch.bfloat16, plan)


def show_memory(budgets: Sequence[int], as_json: bool) -> None:
    """Print the table, and the largest frame in one piece under each budget of bytes."""
    rows = memory_rows(budgets)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=2))
        return
    for budget in budgets:
        largest = largest_in_one_piece(DEFAULT_PRESET, _needed, budget) or "none"
        click.echo(f"{_gib(budget / GIB)}: largest upscaled frame of 16:9 in one piece is {largest}")
    print_table(COLUMNS, rows)


def _gib(amount: float) -> str:
    """Whole numbers without a point: of what was asked for, all digits that matter."""
    return f"{amount:.2f}".rstrip("0").rstrip(".") + " GiB"


COLUMNS = {
    "output": lambda row: f"{row.output:<6}",
    "input": lambda row: f"{row.input:<9}",
    "in one piece": lambda row: f"{row.in_one_piece:8.1f} GiB",
    "GPU": lambda row: f"{_gib(row.vram):>8}",
    "tile": lambda row: f"{row.tile or '-':<10}",
    "tiles": lambda row: f"{row.tiles:5}",
    "takes": lambda row: "-" if row.total is None else f"{row.total:5.1f} GiB",
    "on the host": lambda row: f"{row.host:7.1f} GiB" if row.host else "-",
    "speed": lambda row: row.speed,
}
"""The table's columns; see `cli.terminal.print_table`."""
