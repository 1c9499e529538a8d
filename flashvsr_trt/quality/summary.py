"""Many frames in a few numbers: mean, worst, and chunk borders against the rest."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from flashvsr_trt.config.presets import UNIT_FRAMES
from flashvsr_trt.quality.compare import ComparedFrame
from flashvsr_trt.runtime.session import WARM_UP_FRAMES

MEASURES: Mapping[str, Callable[[ComparedFrame], float]] = MappingProxyType(
    {
        "luma_psnr": lambda frame: frame.quality.luma.psnr,
        "luma_ssim": lambda frame: frame.quality.luma.ssim,
        "rgb_psnr": lambda frame: frame.quality.rgb.psnr,
        "rgb_ssim": lambda frame: frame.quality.rgb.ssim,
    }
)
"""What is measured of each frame. PSNR is in dB."""


@dataclass(frozen=True)
class Summary:
    """One of MEASURES over all frames. `mean` leaves infinite values out, and is infinite if all are."""

    measure: str
    mean: float
    worst: float
    worst_frame: int
    infinite: int
    """Frames whose value is infinite: those that are equal."""


def summarise(frames: Sequence[ComparedFrame], measure: str) -> Summary:
    """One of MEASURES over the frames, of which there is at least one."""
    values = [MEASURES[measure](frame) for frame in frames]
    worst = min(values)
    worst_frame = frames[values.index(worst)].index
    return Summary(measure, finite_mean(values), worst, worst_frame, sum(map(math.isinf, values)))


@dataclass(frozen=True)
class ChunkBorders:
    """Mean luma PSNR in dB of the frames that a chunk starts with, and of all others.

    A picture that jumps where chunks meet has a `border` well below the `rest`.
    """

    frames: tuple[int, ...]
    border: float
    rest: float


def chunk_borders(frames: Iterable[ComparedFrame]) -> ChunkBorders | None:
    """Chunk borders against the rest; None where no frame comes after a border."""
    psnr = {frame.index: frame.quality.luma.psnr for frame in frames}
    borders = tuple(index for index in psnr if starts_chunk(index))
    if not borders:
        return None
    rest = [value for index, value in psnr.items() if index not in set(borders)]
    return ChunkBorders(borders, finite_mean([psnr[index] for index in borders]), finite_mean(rest))


def starts_chunk(index: int) -> bool:
    """Whether a session's frame is the first of a unit; the clip's own first frame follows no other."""
    return index > 0 and (index + WARM_UP_FRAMES) % UNIT_FRAMES == 0


def finite_mean(values: Sequence[float]) -> float:
    """Mean of those that are finite; infinite where none is."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.inf
