"""What a run asks of its input, output and backend: records that the command line, these and tests share."""

import os
from collections.abc import Hashable, Mapping, MutableMapping
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import cache
from numbers import Integral, Rational, Real
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import DEFAULT_PRESET, SCALES, UNIT_FRAMES, find_preset, find_schedule
from flashvsr_trt.config.signatures import COLOR_FIXES, UPSAMPLERS, StreamConfig
from flashvsr_trt.errors import UsageError

Position = int | Fraction
"""A place in a video: an int counts frames from 0, a Fraction is seconds since the file begins."""

COPY, AUTO, DROP = "copy", "auto", "none"
"""What becomes of audio and subtitles, unless an encoder is named; AUTO converts what OUT cannot hold."""

PIPE_FORMATS = {"matroska": "matroska", "y4m": "yuv4mpegpipe"}
"""What a pipe can carry, by its name on the command line -> FFmpeg's."""

ATTENTIONS = ("auto", "reference")
"""`auto`: the kernels on a GPU, their references in PyTorch on a CPU. `reference`: these everywhere."""

KV_CACHES = ("auto", "fp8")
"""`auto`: K/V rings in the network's dtype. `fp8`: in float8_e4m3fn, half the bytes of 16-bit ones."""

DIT_PRECISIONS = ("dtype", "fp8", "fp8-attention")
"""What the DiT multiplies in: its dtype; in linear layers e4m3, and in the projector's convolutions; in
attention and the K/V ring as well. Never chosen for the user."""


@dataclass(frozen=True)
class InputOptions:
    """Which part of an input is read, and how.

    What lies before `start` is skipped, and at most `frames` are given; `end` is the first position that is
    not, `duration` how much is. `rate` (frames a second) is for images and raw video. `raw_size` (height,
    width) and `raw_format` (an FFmpeg pixel format) make the input raw video. `deinterlace` True deinterlaces
    what is interlaced, False takes it as it is, None refuses it. `threads` 0 leaves them to FFmpeg.
    """

    start: Position = 0
    end: Position | None = None
    frames: int | None = None
    duration: Position | None = None
    rate: Fraction | int | None = None
    raw_size: tuple[int, int] | None = None
    raw_format: str = "rgb24"
    deinterlace: bool | None = None
    threads: int = 0


INPUT_DEFAULTS = InputOptions()


@dataclass(frozen=True)
class OutputOptions:
    """How an output is written.

    `container` (FFmpeg's name of one) None is that of the extension. `codec` None is libx264 (libvpx-vp9 for
    webm); `crf` None is the codec's visually good value; `pixel_format` None holds the input's alpha and 10
    bits where the codec can, in 4:2:0, or 4:4:4 where a side is odd. `encoder_options` go to the encoder as
    they are (`{"preset": "slow"}`). `audio_codec` and `subtitle_codec` are COPY, AUTO, DROP, or an encoder.
    """

    container: str | None = None
    codec: str | None = None
    crf: float | None = None
    pixel_format: str | None = None
    encoder_options: Mapping[str, str] = field(default_factory=dict)
    audio_codec: str = COPY
    subtitle_codec: str = COPY
    threads: int = 0
    overwrite: bool = False
    side_by_side: bool = False


OUTPUT_DEFAULTS = OutputOptions()


@dataclass(frozen=True)
class TorchOptions:
    """How the torch backend runs what it runs.

    `attention` is one of ATTENTIONS, `kv_cache` of KV_CACHES, `precision` of DIT_PRECISIONS. `calibration`
    names the file that says which products stay in the network's dtype beside fp8. `compile`: torch.compile
    for encoding and the decoder. `cuda_graphs` None is on where the kernels run; it is the tensorrt backend's
    option as well.
    """

    attention: str = ATTENTIONS[0]
    compile: bool = False
    cuda_graphs: bool | None = None
    kv_cache: str = KV_CACHES[0]
    precision: str = DIT_PRECISIONS[0]
    calibration: str | None = None


@dataclass(frozen=True)
class EngineOptions:
    """How the tensorrt backend runs: whether it builds engines that are missing, and records layer times.

    `flavour` is one of `engines.flavours.FLAVOUR_CHOICES`.
    `folder` names the engines, or a folder of several sets of them: then none are looked for or built.
    """

    build: bool = True
    profile: bool = False
    flavour: str = "auto"
    folder: str | None = None


@dataclass(frozen=True)
class TileOptions:
    """Whether frames run in tiles: "auto", which is in one piece where that fits, "off", or (height, width).

    A tile's size is in pixels of the upscaled frame. `vram`: bytes that may be taken, None for all there are.
    """

    tile: str | tuple[int, int] = "auto"
    vram: int | None = None


@dataclass(frozen=True)
class ExecutorRequest:
    """What to run and on what.

    `weights` is a directory, a bundle, "random[:SEED]" or None (FLASHVSR_WEIGHTS, then the Hugging Face
    cache). `device` and `dtype` may be "auto": the GPU in bfloat16 if there is one, else the CPU in float32.
    `networks` holds networks that torch loaded, by what they were loaded from: requests that share it share
    them.
    """

    stream: StreamConfig
    weights: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    torch: TorchOptions = TorchOptions()
    engines: EngineOptions = EngineOptions()
    tiles: TileOptions = TileOptions()
    networks: MutableMapping[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions(TorchOptions, TileOptions):
    """How frames are upscaled, whatever they come from: the command's options, with its defaults.

    See `flashvsr-trt run --help` for their meaning.
    """

    preset: str = DEFAULT_PRESET
    scale: int = 2
    weights: str | None = None
    schedule: str = "official"
    chunk_size: int = UNIT_FRAMES
    fit: str = "pad"
    seed: int = 0
    color_fix: str = COLOR_FIXES[0]
    upsampler: str = UPSAMPLERS[0]
    backend: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    build: bool = True
    engines: str | None = None
    flavour: str = "auto"

    def __post_init__(self) -> None:
        """Paths are kept as text, and numbers of numpy as Python's."""
        for name, value in list(vars(self).items()):
            object.__setattr__(self, name, _plain(value))

    def check(self) -> None:
        """Raises UsageError for an option that cannot be used with frames of any size."""
        check_types(self)
        if self.scale not in SCALES:
            raise UsageError(f"scale {self.scale} is not supported; use one of {SCALES}")
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise UsageError(f"{name} '{value}' is not known; use one of: {', '.join(choices)}")
        find_preset(self.preset)
        find_schedule(self.schedule)
        if self.tile not in ("auto", "off") and not is_size(self.tile):
            raise UsageError(f"tile {self.tile!r} is no tile; use 'auto', 'off' or (height, width)")

    def stream(self, height: int, width: int) -> StreamConfig:
        """That of frames of this size. Raises UsageError for an option that cannot be used."""
        self.check()
        geometry = Geometry(height, width, self.scale, self.fit)
        preset, schedule = find_preset(self.preset), find_schedule(self.schedule)
        return StreamConfig(preset, geometry, schedule, self.upsampler, self.color_fix)

    def request(
        self,
        stream: StreamConfig,
        profile: bool = False,
        networks: MutableMapping[Hashable, Any] | None = None,
    ) -> ExecutorRequest:
        """What these options ask of a backend; see `ExecutorRequest` and `EngineOptions`."""
        return ExecutorRequest(
            stream,
            self.weights,
            self.device,
            self.dtype,
            torch=part_of(self, TorchOptions),
            engines=EngineOptions(self.build, profile, self.flavour, self.engines),
            tiles=part_of(self, TileOptions),
            networks={} if networks is None else networks,
        )


DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""What `precision` calls a dtype."""

PRECISIONS = ("auto", *DTYPES, *DIT_PRECISIONS[1:])
"""What `precision` takes: a dtype of all, or FP8 in the DiT beside one."""


def take_precision(options: dict[str, Any]) -> dict[str, Any]:
    """As `UpscaleOptions` has them: precision bf16 is a dtype, fp8 what the DiT multiplies in beside one.

    A dtype may have either name.

    Raises:
        UsageError: another precision, or one and a dtype that differ.
    """
    asked, dtype = options.get("precision", "auto"), options.get("dtype", "auto")
    if asked not in (*PRECISIONS, DIT_PRECISIONS[0]):
        raise UsageError(f"precision '{asked}' is not known; use one of: {', '.join(PRECISIONS)}")
    dtype = DTYPES.get(dtype, dtype)
    if asked != "auto" and asked not in DTYPES:
        return options | {"dtype": dtype}
    if asked in DTYPES and dtype not in ("auto", DTYPES[asked]):
        raise UsageError(f"--precision {asked} and --dtype {dtype} differ; leave --dtype out")
    return options | {"precision": DIT_PRECISIONS[0], "dtype": DTYPES.get(asked, dtype)}


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Integral):
        return value if isinstance(value, int) else int(value)
    return float(value) if isinstance(value, Real) and not isinstance(value, Rational) else value


def check_types(options: Any) -> None:
    """Raises UsageError for a field of a record that is of another type than is declared."""
    for name, kinds in _kinds(type(options)).items():
        value = getattr(options, name)
        if not any(_is_of(value, kind) for kind in kinds):
            wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            raise UsageError(f"{name} {value!r} is of type {type(value).__name__}; give {wanted}")


@cache
def _kinds(record: type) -> dict[str, tuple[type, ...]]:
    """The types that each field takes."""
    hints = get_type_hints(record).items()
    return {name: get_args(hint) if isinstance(hint, UnionType) else (hint,) for name, hint in hints}


def _is_of(value: Any, kind: type) -> bool:
    kind = get_origin(kind) or kind
    if kind is tuple:
        return is_size(value)
    accepted = {float: Real, Fraction: Rational}.get(kind, kind)
    return isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))


def is_size(value: Any) -> bool:
    """Whether it is (height, width)."""
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(side, int) for side in value)


CHOICES = {
    "color_fix": COLOR_FIXES,
    "upsampler": UPSAMPLERS,
    "attention": ATTENTIONS,
    "kv_cache": KV_CACHES,
    "precision": DIT_PRECISIONS,
}
"""What the options take that nothing else looks up."""


@dataclass(frozen=True, kw_only=True)
class RunOptions(InputOptions, OutputOptions, UpscaleOptions):
    """The options of `flashvsr-trt run`, with its defaults; see its help for their meaning."""

    input: str
    output: str | None = None
    profile: str | None = None


Part = TypeVar("Part", TorchOptions, TileOptions)


def part_of(options: UpscaleOptions, kind: type[Part]) -> Part:
    """The record of one of the kinds that UpscaleOptions derives from."""
    return kind(**{part.name: getattr(options, part.name) for part in fields(kind)})
