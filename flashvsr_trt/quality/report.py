"""A comparison in a few numbers, chunk borders against the rest among them: as JSON, a table, words."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flashvsr_trt import __version__
from flashvsr_trt.config.presets import UNIT_FRAMES
from flashvsr_trt.quality.compare import ComparedFrame, Comparison
from flashvsr_trt.runtime.session import WARM_UP_FRAMES

LABELS = {"luma_psnr": "luma PSNR", "luma_ssim": "luma SSIM", "rgb_psnr": "RGB PSNR", "rgb_ssim": "RGB SSIM"}
"""The measures of a `FrameQuality`, in words."""


@dataclass(frozen=True)
class Summary:
    """One of LABELS over all frames. `mean` leaves infinite values out, and is infinite if all are."""

    measure: str
    mean: float
    worst: float
    worst_frame: int
    infinite: int
    """Frames whose value is infinite: those that are equal."""


def summarise(frames: Sequence[ComparedFrame], measure: str) -> Summary:
    """One of LABELS over the frames, of which there is at least one."""
    values = [getattr(frame.quality, measure) for frame in frames]
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
    psnr = {frame.index: frame.quality.luma_psnr for frame in frames}
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


TABLE_COLUMNS: Mapping[str, Callable[[Summary], str]] = {
    "measure": lambda summary: LABELS[summary.measure],
    "mean": lambda summary: in_words(summary.measure, summary.mean),
    "worst": lambda summary: in_words(summary.measure, summary.worst),
    "at frame": lambda summary: str(summary.worst_frame),
}
"""What a table shows of each measure."""


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """The whole comparison. JSON knows no infinity: null is the PSNR of equal frames.

    `mean` leaves those frames out, and `equal_frames` counts them.
    """
    both = zip(comparison.names, comparison.counts, comparison.truncated, strict=True)
    inputs = [
        {"input": name, "frames": count, "truncated": truncated is not None}
        for name, count, truncated in both
    ]
    summaries = {measure: summarise(comparison.frames, measure) for measure in LABELS}
    borders = chunk_borders(comparison.frames)
    return {
        "a": inputs[0],
        "b": inputs[1],
        "size": [comparison.width, comparison.height],
        "own_sizes": [list(size) for size in comparison.sizes],
        "frames_compared": len(comparison.frames),
        "same_frame_count": comparison.counts[0] == comparison.counts[1],
        "equal_frames": summaries["rgb_psnr"].infinite,
        "summary": {
            measure: {
                "mean": _finite(summary.mean),
                "worst": _finite(summary.worst),
                "worst_frame": summary.worst_frame,
            }
            for measure, summary in summaries.items()
        },
        "chunk_borders": borders
        and {
            "frames": list(borders.frames),
            "luma_psnr": _finite(borders.border),
            "luma_psnr_of_the_rest": _finite(borders.rest),
        },
        "frames": [
            {"frame": frame.index, "seconds": frame.seconds}
            | {measure: _finite(value) for measure, value in vars(frame.quality).items()}
            for frame in comparison.frames
        ],
        "versions": {"flashvsr-trt": __version__},
    }


def remarks(comparison: Comparison) -> list[str]:
    """What a reader of the table should know besides: equal frames, chunk borders."""
    lines = []
    for name, own in zip(comparison.names, comparison.sizes, strict=True) if comparison.sizes else ():
        if own != (comparison.width, comparison.height):
            lines.append(f"{name} was upscaled from {own[0]}x{own[1]} with bicubic interpolation")
    equal = summarise(comparison.frames, "rgb_psnr").infinite
    if equal:
        lines.append(f"{equal} of {len(comparison.frames)} frames are equal; the mean PSNR is of the others")
    if borders := chunk_borders(comparison.frames):
        border, rest = (in_words("luma_psnr", value) for value in (borders.border, borders.rest))
        count, first = len(borders.frames), borders.frames[0]
        lines.append(
            f"luma PSNR where chunks begin ({count} frames, from {first} on): {border}, elsewhere {rest}"
        )
    return lines


def in_words(measure: str, value: float) -> str:
    """A value of one of LABELS for people."""
    if measure.endswith("ssim"):
        return f"{value:.4f}"
    return f"{value:.2f} dB" if math.isfinite(value) else "equal"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
