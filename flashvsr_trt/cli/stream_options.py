"""The options that say which stream to export or to build engines for: the same for every command."""

from collections.abc import Callable, Sequence

import click

from flashvsr_trt.bundle import PRECISIONS
from flashvsr_trt.cli.option_types import SizeType
from flashvsr_trt.config.geometry import FITS, Geometry, nearest_size
from flashvsr_trt.config.presets import (
    DEFAULT_PRESET,
    SCALES,
    SCHEDULES,
    SIZE_MULTIPLE,
    find_preset,
    find_schedule,
)
from flashvsr_trt.config.signatures import COLOR_FIXES, UPSAMPLERS, StreamConfig
from flashvsr_trt.config.tiles import tile_geometry
from flashvsr_trt.errors import UsageError

_DEFAULT_SIZE = (768, 1280)


def choice(name: str, values: Sequence, help_text: str | None = None) -> Callable[[Callable], Callable]:
    """An option that takes one of `values`; the first is its default."""
    return click.option(name, type=click.Choice(values), default=values[0], show_default=True, help=help_text)


PRESET = click.option(
    "--preset", default=DEFAULT_PRESET, show_default=True, help="See `flashvsr-trt presets`."
)
SCALE = choice("--scale", SCALES)
SCHEDULE = choice("--schedule", [schedule.name for schedule in SCHEDULES])
UPSAMPLER = choice("--upsampler", UPSAMPLERS, "pil: as trained; torch: as FlashDreams.")
COLOR_FIX = choice("--color-fix", COLOR_FIXES)
WEIGHTS = click.option(
    "--weights",
    metavar="W",
    help="Directory, bundle, or random[:SEED].  [default: FLASHVSR_WEIGHTS, HF cache; nano: its own]",
)

STREAM_OPTIONS = (
    PRESET,
    click.option(
        "--size",
        type=SizeType(),
        help=f"Of the upscaled frame, in multiples of {SIZE_MULTIPLE}.  [default: 1280x768]",
    ),
    click.option("--input-size", type=SizeType(), help="Of the frames that go in, any; instead of --size."),
    click.option(
        "--tile",
        type=SizeType(),
        help="For frames of every size and scale, in tiles of this; instead of --size.",
    ),
    SCALE,
    SCHEDULE,
    choice("--fit", FITS, "Of an --input-size."),
    UPSAMPLER,
    COLOR_FIX,
    choice("--precision", list(PRECISIONS)),
    WEIGHTS,
)


def stream_options(command: Callable) -> Callable:
    """Give a command STREAM_OPTIONS, in this order in its help."""
    for option in reversed(STREAM_OPTIONS):
        command = option(command)
    return command


def stream_of(
    preset: str,
    size: tuple[int, int] | None,
    input_size: tuple[int, int] | None,
    tile: tuple[int, int] | None,
    scale: int,
    schedule: str,
    fit: str,
    upsampler: str,
    color_fix: str,
) -> StreamConfig:
    """What STREAM_OPTIONS ask for, but --precision and --weights. Raises UsageError."""
    if tile and (size or input_size):
        raise UsageError("--tile is for frames of every size: leave out --size and --input-size")
    geometry = tile_geometry(tile) if tile else _geometry_of(size, input_size, scale, fit)
    return StreamConfig(find_preset(preset), geometry, find_schedule(schedule), upsampler, color_fix)


def _geometry_of(
    size: tuple[int, int] | None, input_size: tuple[int, int] | None, scale: int, fit: str
) -> Geometry:
    """The geometry that --size, or --input-size and --fit, ask for. Raises UsageError."""
    if size and input_size:
        raise UsageError(
            "--size is of the upscaled frame and --input-size of the one before: give one of them"
        )
    if input_size:
        return Geometry(*input_size, scale, fit)
    height, width = size or _DEFAULT_SIZE
    if height % SIZE_MULTIPLE or width % SIZE_MULTIPLE or not height * width:
        raise UsageError(
            f"--size {width}x{height} is not in multiples of {SIZE_MULTIPLE}; the nearest is "
            f"{nearest_size(height, width)}, or give "
            "the size of the input with --input-size"
        )
    return Geometry(height // scale, width // scale, scale)
