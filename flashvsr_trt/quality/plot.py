"""PSNR and SSIM over time as inline SVG: two panels, a line each for luma and RGB. Colours are the page's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flashvsr_trt.quality.compare import ComparedFrame
from flashvsr_trt.quality.summary import MEASURES

WIDTH, PANEL_HEIGHT = 880, 170
"""In SVG units."""

LEFT, RIGHT, TOP, BOTTOM = 56, 12, 26, 24
"""Space around a panel's lines for its labels."""

MAX_POINTS = 400
"""Places along the time axis. Where more frames fall in one place, its lowest and highest value are drawn."""

TICKS = 4
"""About this many labels an axis."""


@dataclass(frozen=True)
class Panel:
    """One diagram: the measures in it, by the CSS class of their lines."""

    title: str
    lines: dict[str, str]


PANELS = (
    Panel("PSNR, dB", {"luma": "luma_psnr", "rgb": "rgb_psnr"}),
    Panel("SSIM", {"luma": "luma_ssim", "rgb": "rgb_ssim"}),
)


def plot(frames: Sequence[ComparedFrame], shown: Sequence[int]) -> str:
    """The SVG element. Frames in `shown` become links to `#frame-N`. Infinite values are gaps in a line."""
    drawn = "".join(
        f'<g transform="translate(0 {number * PANEL_HEIGHT})">{_panel(panel, frames, shown)}</g>'
        for number, panel in enumerate(PANELS)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {PANEL_HEIGHT * len(PANELS)}" role="img" '
        f'aria-label="PSNR and SSIM of {len(frames)} frames over time">{drawn}</svg>'
    )


def _panel(panel: Panel, frames: Sequence[ComparedFrame], shown: Sequence[int]) -> str:
    values = {name: [MEASURES[measure](frame) for frame in frames] for name, measure in panel.lines.items()}
    finite = [value for line in values.values() for value in line if math.isfinite(value)]
    bottom, top = PANEL_HEIGHT - BOTTOM, TOP
    last = max(len(frames) - 1, 1)

    def x(index: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * index / last

    parts = [f'<text class="title" x="{LEFT}" y="16">{panel.title}</text>']
    parts += [
        f'<text x="{x(index):.1f}" y="{bottom + 16}" text-anchor="middle">{index:g}</text>'
        for index in ticks(0, len(frames) - 1)
        if index == int(index)
    ]
    parts += [
        f'<a href="#frame-{index}"><title>frame {index}</title>'
        f'<path class="mark" d="M{x(index):.1f} {top}V{bottom}"/></a>'
        for index in shown
    ]
    if not finite:
        return "".join([*parts, f'<text x="{LEFT}" y="{(top + bottom) / 2}">all frames are equal</text>'])
    low, high = min(finite), max(finite)
    room = 0.08 * (high - low) or max(0.01 * abs(high), 1e-3)  # a flat line lies in the middle
    low, high = low - room, high + room

    def y(value: float) -> float:
        return bottom - (bottom - top) * (value - low) / (high - low)

    for tick in ticks(low, high):
        parts.append(f'<path class="grid" d="M{LEFT} {y(tick):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>')
    parts += [f'<path class="line {name}" d="{_line(line, x, y)}"/>' for name, line in values.items()]
    return "".join(parts)


def ticks(low: float, high: float) -> list[float]:
    """About TICKS round numbers (1, 2 or 5 times a power of ten apart) from low to high."""
    if high <= low:
        return [low]
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(number * step, digits) for number in range(first, last + 1)]


def _line(values: Sequence[float], x: Callable[[float], float], y: Callable[[float], float]) -> str:
    """A path through the values; where frames share a place, through its first extreme and then the other."""
    per_place = max(1, math.ceil(len(values) / MAX_POINTS))
    commands, pen = [], "M"
    for first in range(0, len(values), per_place):
        place = values[first : first + per_place]
        finite = [value for value in place if math.isfinite(value)]
        if not finite:
            pen = "M"
            continue
        extremes = sorted({min(finite), max(finite)}, key=place.index)
        for value in extremes:
            commands.append(f"{pen}{x(first + (len(place) - 1) / 2):.1f} {y(value):.1f}")
            # A line of no length has round ends: a value alone between gaps is a dot.
            commands += ["h0"] if pen == "M" else []
            pen = "L"
    return "".join(commands)
