"""The options that say which stream to export or to build engines for: the same for every command."""

from collections.abc import Callable

import click

from flashvsr_trt.bundle import PRECISIONS
from flashvsr_trt.cli.option_types import SizeType
from flashvsr_trt.config.geometry import FITS
from flashvsr_trt.config.presets import DEFAULT_PRESET, SCALES, SCHEDULES, SIZE_MULTIPLE
from flashvsr_trt.config.signatures import COLOR_FIXES, UPSAMPLERS

STREAM_OPTIONS = (
    click.option("--preset", default=DEFAULT_PRESET, show_default=True, help="See `flashvsr-trt presets`."),
    click.option(
        "--size",
        type=SizeType(),
        help=f"Of the upscaled frame, in multiples of {SIZE_MULTIPLE}.  [default: 1280x768]",
    ),
    click.option("--input-size", type=SizeType(), help="Of the frames that go in, any; instead of --size."),
    click.option("--scale", type=click.Choice([str(s) for s in SCALES]), default="2", show_default=True),
    click.option(
        "--schedule", type=click.Choice([s.name for s in SCHEDULES]), default="official", show_default=True
    ),
    click.option(
        "--fit", type=click.Choice(FITS), default="pad", show_default=True, help="Of an --input-size."
    ),
    click.option("--upsampler", type=click.Choice(UPSAMPLERS), default=UPSAMPLERS[0], show_default=True),
    click.option("--color-fix", type=click.Choice(COLOR_FIXES), default=COLOR_FIXES[0], show_default=True),
    click.option("--precision", type=click.Choice(list(PRECISIONS)), default="bf16", show_default=True),
    click.option(
        "--weights",
        metavar="W",
        help="Directory, bundle, or random[:SEED].  [default: FLASHVSR_WEIGHTS, HF cache; nano: its own]",
    ),
)


def stream_options(command: Callable) -> Callable:
    """Give a command STREAM_OPTIONS, in this order in its help."""
    for option in reversed(STREAM_OPTIONS):
        command = option(command)
    return command
