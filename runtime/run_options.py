"""The options of `flashvsr-trt run`, as one record."""

from dataclasses import dataclass
from fractions import Fraction

from flashvsr_trt.config.presets import DEFAULT_PRESET, UNIT_FRAMES
from flashvsr_trt.runtime.request import ATTENTIONS, KV_CACHES
from flashvsr_trt.runtime.video.clip_range import Position
from flashvsr_trt.runtime.video.stream_plan import COPY


@dataclass(frozen=True)
class RunOptions:
    """The options of `flashvsr-trt run`, with its defaults; see its help for their meaning."""

    input: str
    output: str | None = None
    preset: str = DEFAULT_PRESET
    scale: int = 2
    weights: str | None = None
    schedule: str = "official"
    chunk_size: int = UNIT_FRAMES
    fit: str = "pad"
    seed: int = 0
    color_fix: str = "adain"
    upsampler: str = "pil"
    backend: str = "auto"
    device: str = "auto"
    dtype: str = "auto"
    attention: str = ATTENTIONS[0]
    compile: bool = False
    cuda_graphs: bool | None = None
    kv_cache: str = KV_CACHES[0]
    tile: str | tuple[int, int] = "auto"
    vram: int | None = None
    build: bool = True
    engines: str | None = None
    profile: str | None = None
    flavour: str = "auto"
    start: Position = 0
    end: Position | None = None
    frames: int | None = None
    duration: Position | None = None
    rate: Fraction | None = None
    raw_size: tuple[int, int] | None = None
    raw_format: str = "rgb24"
    deinterlace: bool | None = None
    format: str | None = None
    codec: str | None = None
    crf: float | None = None
    pixel_format: str | None = None
    encoder_options: tuple[tuple[str, str], ...] = ()
    audio_codec: str = COPY
    subtitle_codec: str = COPY
    threads: int = 0
    overwrite: bool = False
