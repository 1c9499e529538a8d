"""Options that several commands take, and their types. Each refuses what could never be meant."""

import math
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click

from flashvsr_trt.bundle import LARGEST_SIDE
from flashvsr_trt.bundle import PRECISIONS as BUNDLE_PRECISIONS
from flashvsr_trt.config.geometry import FITS, Geometry, nearest_size
from flashvsr_trt.config.presets import (
    CHUNK_SIZES,
    DEFAULT_PRESET,
    SCALES,
    SCHEDULES,
    SIZE_MULTIPLE,
    find_preset,
    find_schedule,
)
from flashvsr_trt.config.signatures import COLOR_FIXES, UPSAMPLERS, StreamConfig
from flashvsr_trt.config.tiles import tile_geometry
from flashvsr_trt.engines.flavours import FLAVOUR_CHOICES
from flashvsr_trt.errors import UsageError
from flashvsr_trt.files.targets import STANDARD_STREAM
from flashvsr_trt.runtime.request import PRECISIONS

COUNT = click.IntRange(1, 2**31 - 1)
"""Of frames or GPUs: 1 or more."""

SEED = click.IntRange(0, 2**63 - 1)

THREADS = click.IntRange(0, 1024)
"""0 leaves the number to the library."""

WORKERS = click.IntRange(1, 1024)

MEGABYTES = click.IntRange(1, 2**31 - 1)

MOST_RATE = 100_000
"""Frames a second that a container's clock can still tell apart."""


class OutputPath(click.Path):
    """A file or folder to make, which has a name: a Path, unless `path_type` is str."""

    def convert(self, value, param, ctx) -> Any:
        if not os.fspath(value):
            self.fail("'' is no name; give it one, or leave the option out", param, ctx)
        if os.fspath(value) == STANDARD_STREAM:
            self.fail("- is stdout, and this needs a file of its own, or a folder; name one", param, ctx)
        kind: Any = self.type or Path
        return kind(os.fsdecode(super().convert(value, param, ctx)))


class TextType(click.ParamType, ABC):
    """A value that is written as text."""

    @abstractmethod
    def parse(self, text: str) -> Any:
        """The value. Raises ValueError that says what is wrong with the text."""

    def convert(self, value, param, ctx) -> Any:
        try:
            return self.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class SizeType(TextType):
    """WIDTHxHEIGHT, as FFmpeg spells it; the value is (height, width)."""

    name = "WxH"
    refusal = "not a size; write it as 640x360"

    def parse(self, text: str) -> Any:
        found = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})", text)
        if not found:
            raise ValueError(f"'{text}' is {self.refusal}")
        width, height = int(found[1]), int(found[2])
        if not (0 < width <= LARGEST_SIDE and 0 < height <= LARGEST_SIDE):
            raise ValueError(f"'{text}' is no size of a frame; each side is 1 to {LARGEST_SIDE} pixels")
        return height, width


class TileType(SizeType):
    """auto, off, or WIDTHxHEIGHT of a tile."""

    name = "auto|WxH|off"
    refusal = "neither auto, off nor a size; write a size as 768x768"

    def parse(self, text: str) -> Any:
        return text if text in ("auto", "off") else super().parse(text)


BYTE_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class BytesType(TextType):
    """Bytes of memory: 8G, 1.5GiB, 8000M; the value is an int."""

    name = "BYTES"

    def parse(self, text: str) -> Any:
        found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([KMGT]?)(?:i?B)?", text, re.IGNORECASE)
        size = int(Fraction(found[1]) * BYTE_UNITS[found[2].upper()]) if found else 0
        if size < 1:
            raise ValueError(f"'{text}' is no amount of memory; write it as 8G, 1.5G or 8000M")
        return size


class RateType(TextType):
    """Frames a second: 30, 29.97 or 30000/1001; the value is a Fraction."""

    name = "RATE"

    def parse(self, text: str) -> Any:
        # By the pattern first: Fraction would write out all digits of 1e999999999.
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9}|/(?!0+$)[0-9]{1,9})?", text):
            raise ValueError(f"'{text}' is not a rate; write it as 30 or 30000/1001")
        rate = Fraction(text)
        if not Fraction(1, MOST_RATE) <= rate <= MOST_RATE:
            raise ValueError(f"a rate of {text} frames a second is not possible; use one up to {MOST_RATE}")
        return rate


class FiniteType(TextType):
    """A number that is neither infinite nor nan."""

    name = "FLOAT"

    def parse(self, text: str) -> Any:
        with suppress(ValueError):
            if math.isfinite(number := float(text)):
                return number
        raise ValueError(f"'{text}' is not a number")


class EncoderOption(TextType):
    """key=value, handed to the encoder; the value is both."""

    name = "KEY=VALUE"

    def parse(self, text: str) -> Any:
        key, equals, setting = text.partition("=")
        if not equals or not key or "\0" in text:
            raise ValueError(f"'{text}' is not an encoder option; write it as preset=slow")
        return key, setting


TIME_UNITS = {None: Fraction(1), "s": Fraction(1), "ms": Fraction(1, 1000), "us": Fraction(1, 10**6)}
"""Seconds of each; a number with a point and no unit is seconds."""


class PositionType(TextType):
    """A place in a video: an integer counts frames, anything else is a time as FFmpeg writes it.

    The value is an int, or a Fraction of seconds.
    """

    name = "FRAME|TIME"

    FRAMES = re.compile(r"-?\d{1,9}", re.ASCII)
    CLOCK = re.compile(r"(?:(\d{1,6}):)?(\d{1,2}):(\d{1,2}(?:\.\d{0,9})?)", re.ASCII)
    REFUSAL = "neither a frame nor a time; write 48 (frames), 1:02:03.5, 1:30, 12.5s or 500ms"
    SECONDS = re.compile(r"(\d{1,9}\.?\d{0,9}|\.\d{1,9})(s|ms|us)?", re.ASCII)

    def parse(self, text: str) -> Any:
        if self.FRAMES.fullmatch(text):
            return int(text)
        if (clock := self.CLOCK.fullmatch(text)) and int(clock[2]) < 60 and Fraction(clock[3]) < 60:
            return (int(clock[1] or 0) * 60 + int(clock[2])) * 60 + Fraction(clock[3])
        if seconds := self.SECONDS.fullmatch(text):
            return Fraction(seconds[1]) * TIME_UNITS[seconds[2]]
        raise ValueError(f"'{text}' is {self.REFUSAL}")


class TimeType(PositionType):
    """A time in every form of FFmpeg's: a bare number is seconds. The value is a Fraction of seconds."""

    name = "TIME"
    REFUSAL = "no time; write 12.5 or 12.5s, 1:30, 1:02:03.5 or 500ms"

    def parse(self, text: str) -> Any:
        if text.startswith("-"):
            raise ValueError(f"'{text}' is before the beginning; write 12.5, 1:30 or 500ms")
        return Fraction(super().parse(text))


class Choice(click.Choice):
    """One of `values`, or an older word for one of them, which is taken and not shown."""

    def __init__(self, values: Sequence, older: Mapping[str, str]) -> None:
        super().__init__(values)
        self.older = older

    def convert(self, value, param, ctx) -> Any:
        return super().convert(self.older.get(value, value), param, ctx)


_DEFAULT_SIZE = (768, 1280)

Decorator = Callable[[Callable], Callable]


def choice(name: str, values: Sequence, help_text: str, older: Mapping = MappingProxyType({})) -> Decorator:
    """An option that takes one of `values`, or of the `older` words for them; the first is its default."""
    kind = Choice(values, older)
    return click.option(name, type=kind, default=values[0], help=help_text)


def options(*those: Decorator) -> Decorator:
    """Give a command options, in this order in its help."""

    def give(command: Callable) -> Callable:
        for option in reversed(those):
            command = option(command)
        return command

    return give


OVERWRITE = click.option(
    "-y/-n",
    "--overwrite/--no-overwrite",
    default=False,
    show_default=False,
    help="Replace what exists, or refuse to.  [default: -n]",
)

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def compute_capability(name: str) -> str:
    """`sm_89` -> `8.9`; other words as they are."""
    found = re.fullmatch(r"sm_?([0-9]{1,2})([0-9])a?", name)
    return f"{found[1]}.{found[2]}" if found else name


def kernel_architecture(name: str) -> str:
    """`8.9` -> `sm_89`; other words as they are."""
    found = re.fullmatch(r"([0-9]{1,2})\.([0-9])", name)
    return f"sm_{found[1]}{found[2]}" if found else name


PRESET = click.option("--preset", default=DEFAULT_PRESET, help="See `flashvsr-trt presets`.")
SCALE = choice("--scale", SCALES, "Times width and height.")
SCHEDULE = choice(
    "--schedule",
    [schedule.name for schedule in SCHEDULES],
    "official: as trained, looks 4 frames ahead; low-latency: does not.",
)
UPSAMPLER = choice("--upsampler", UPSAMPLERS, "pil: as trained; torch: as FlashDreams.")
COLOR_FIX = choice("--color-fix", COLOR_FIXES, "How the input's colours are given back.")
WEIGHTS = click.option(
    "--weights",
    metavar="W",
    help="Directory, bundle, or random[:SEED].  [default: FLASHVSR_WEIGHTS, HF cache; nano: its own]",
)

FIT = choice("--fit", FITS, "To multiples of 128 pixels.")
DEVICE = click.option("--device", default="auto", help="auto, cpu, cuda or cuda:N.")

EXECUTOR_OPTIONS = options(
    *(PRESET, SCALE, WEIGHTS, SCHEDULE),
    choice("--chunk-size", CHUNK_SIZES, "Frames a call: 16 is a little faster, and later."),
    *(COLOR_FIX, UPSAMPLER),
    click.option("--backend", default="auto", help="See `flashvsr-trt doctor`."),
    DEVICE,
    choice(
        "--precision",
        PRECISIONS,
        "bf16 on a GPU, fp32 on a CPU; fp8 is faster and less exact, fp8-attention more so.",
        older={"dtype": "auto"},
    ),
    click.option("--build/--no-build", default=True, help="Build engines that are missing."),
    choice("--flavour", FLAVOUR_CHOICES, "Of the engines that --backend tensorrt runs."),
    click.option(
        "--engines", metavar="DIR", help="Run the engines in DIR, a set or a folder of sets; build none."
    ),
)
"""What every command takes that runs streams."""

STREAM_OPTIONS = options(
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
    choice("--precision", list(BUNDLE_PRECISIONS), "Of weights and work."),
    WEIGHTS,
)
"""What every command takes that exports streams; see `stream_of`."""


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
    if size and input_size:
        raise UsageError(
            "--size is of the upscaled frame and --input-size of the one before: give one of them"
        )
    height, width = size or _DEFAULT_SIZE
    if tile:
        geometry = tile_geometry(tile)
    elif input_size:
        geometry = Geometry(*input_size, scale, fit)
    elif height % SIZE_MULTIPLE or width % SIZE_MULTIPLE or not height * width:
        raise UsageError(
            f"--size {width}x{height} is not in multiples of {SIZE_MULTIPLE}; the nearest is "
            f"{nearest_size(height, width)}, or give the size of the input with --input-size"
        )
    else:
        geometry = Geometry(height // scale, width // scale, scale)
    return StreamConfig(find_preset(preset), geometry, find_schedule(schedule), upsampler, color_fix)
