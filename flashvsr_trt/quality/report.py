"""A comparison as JSON, as rows of a table, and its numbers in words."""

import math
from collections.abc import Callable, Mapping
from typing import Any

from flashvsr_trt import __version__
from flashvsr_trt.quality.compare import Comparison
from flashvsr_trt.quality.summary import MEASURES, Summary, chunk_borders, summarise

LABELS = {"luma_psnr": "luma PSNR", "luma_ssim": "luma SSIM", "rgb_psnr": "RGB PSNR", "rgb_ssim": "RGB SSIM"}

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
    summaries = {measure: summarise(comparison.frames, measure) for measure in MEASURES}
    borders = chunk_borders(comparison.frames)
    return {
        "a": inputs[0],
        "b": inputs[1],
        "size": [comparison.width, comparison.height],
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
            | {measure: _finite(value(frame)) for measure, value in MEASURES.items()}
            for frame in comparison.frames
        ],
        "versions": {"flashvsr-trt": __version__},
    }


def remarks(comparison: Comparison) -> list[str]:
    """What a reader of the table should know besides: equal frames, chunk borders."""
    lines = []
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
    """A value of MEASURES for people."""
    if measure.endswith("ssim"):
        return f"{value:.4f}"
    return f"{value:.2f} dB" if math.isfinite(value) else "equal"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
