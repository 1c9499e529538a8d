"""A comparison as one static HTML file: numbers, a plot, and a slider for each shown frame."""

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from html import escape
from importlib.resources import files
from string import Template

import av
import numpy as np

from flashvsr_trt.quality.compare import ComparedFrame, Comparison
from flashvsr_trt.quality.report import LABELS, TABLE_COLUMNS, Summary, in_words, remarks, summarise

WIDTH, PANEL_HEIGHT = 880, 170
"""In SVG units."""

LEFT, RIGHT, TOP, BOTTOM = 56, 12, 26, 24
"""Space around a panel's lines for its labels."""

MAX_POINTS = 400
"""Places along the time axis. Where more frames fall in one place, its lowest and highest value are drawn."""

TICKS = 4
"""About this many labels an axis."""


PANELS = {"psnr": "PSNR, dB", "ssim": "SSIM"}
"""What each diagram shows, and its title; luma and RGB, which are CSS classes too, are a line each."""


def plot(frames: Sequence[ComparedFrame], shown: Sequence[int]) -> str:
    """The SVG element. Frames in `shown` become links to `#frame-N`. Infinite values are gaps in a line."""
    drawn = "".join(
        f'<g transform="translate(0 {number * PANEL_HEIGHT})">{_panel(measure, frames, shown)}</g>'
        for number, measure in enumerate(PANELS)
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {PANEL_HEIGHT * len(PANELS)}" role="img" '
        f'aria-label="PSNR and SSIM of {len(frames)} frames over time">{drawn}</svg>'
    )


def _panel(measure: str, frames: Sequence[ComparedFrame], shown: Sequence[int]) -> str:
    values = {
        name: [getattr(frame.quality, f"{name}_{measure}") for frame in frames] for name in ("luma", "rgb")
    }
    finite = [value for line in values.values() for value in line if math.isfinite(value)]
    bottom, top = PANEL_HEIGHT - BOTTOM, TOP
    last = max(len(frames) - 1, 1)

    def x(index: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * index / last

    parts = [f'<text class="title" x="{LEFT}" y="16">{PANELS[measure]}</text>']
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


SPREAD_FRAMES = 4
"""At most this many frames evenly apart are kept; of a long clip at least half as many."""


@dataclass(frozen=True)
class ShownFrame:
    """A frame with its pixels in A and B, uint8 RGB [H, W, 3]."""

    frame: ComparedFrame
    a: np.ndarray
    b: np.ndarray


class ShownFrames:
    """Keeps frames 0, n, 2n, ... and doubles n when they are too many: no length is known beforehand."""

    def __init__(self) -> None:
        self._stride = 1
        self._spread: list[ShownFrame] = []
        self._worst: ShownFrame | None = None

    def add(self, frame: ComparedFrame, a: np.ndarray, b: np.ndarray) -> None:
        """Takes the next frame in, uint8 RGB [H, W, 3] twice; the arrays are kept, not copied."""
        shown = ShownFrame(frame, a, b)
        if self._worst is None or frame.quality.luma_psnr < self._worst.frame.quality.luma_psnr:
            self._worst = shown
        if frame.index % self._stride:
            return
        self._spread.append(shown)
        if len(self._spread) > SPREAD_FRAMES:
            self._spread = self._spread[::2]
            self._stride *= 2

    def chosen(self) -> list[ShownFrame]:
        """The spread frames and the one of least luma PSNR, in order, each once."""
        frames = [*self._spread, *([self._worst] if self._worst else [])]
        by_index = {shown.frame.index: shown for shown in frames}
        return [by_index[index] for index in sorted(by_index)]


TEMPLATES = files("flashvsr_trt.quality")


def comparison_page(comparison: Comparison, shown: Sequence[ShownFrame]) -> str:
    """The page as text. It loads nothing: styles, script, plot and lossless images are inside."""
    name_a, name_b = (escape(name) for name in comparison.names)
    worst = summarise(comparison.frames, "luma_psnr").worst_frame
    (count_a, count_b), compared = comparison.counts, len(comparison.frames)
    counts = f"{compared} frames"
    if count_a != count_b:
        counts = f"the first {compared} frames (A has {count_a}, B has {count_b})"
    return template("page.html").substitute(
        **page_parts(),
        name_a=name_a,
        name_b=name_b,
        width=comparison.width,
        height=comparison.height,
        frames=counts,
        header="".join(f'<th scope="col">{cell}</th>' for cell in TABLE_COLUMNS),
        rows="".join(_row(summarise(comparison.frames, measure)) for measure in LABELS),
        remarks="".join(f"<p>{escape(line)}</p>" for line in remarks(comparison)),
        plot=plot(comparison.frames, [pair.frame.index for pair in shown]),
        pairs="".join(_pair(pair, comparison.names, pair.frame.index == worst) for pair in shown),
    )


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of a frame, uint8 RGB [H, W, 3]."""
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width, encoder.pix_fmt = *pixels.shape[:2], "rgb24"
    encoder.time_base = Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def template(name: str) -> Template:
    """A file of this room."""
    return Template(TEMPLATES.joinpath(name).read_text(encoding="utf-8"))


def _row(summary: Summary) -> str:
    label, *values = (escape(cell(summary)) for cell in TABLE_COLUMNS.values())
    return f'<tr><th scope="row">{label}</th>{"".join(f"<td>{value}</td>" for value in values)}</tr>'


def _pair(pair: ShownFrame, names: tuple[str, str], worst: bool) -> str:
    measures = ", ".join(
        f"{LABELS[measure]} {in_words(measure, value)}" for measure, value in vars(pair.frame.quality).items()
    )
    note = " (least luma PSNR)" if worst else ""
    caption = f"<b>Frame {pair.frame.index}</b>, {pair.frame.seconds:.2f} s{note}: {measures}"
    lettered = zip("AB", names, strict=True)
    named = [f"{letter}, {escape(name)}, frame {pair.frame.index}" for letter, name in lettered]
    return slider(pair.frame.index, caption, ("A", "B"), named, (pair.a, pair.b))


def slider(
    index: int, caption: str, labels: Sequence[str], names: Sequence[str], pictures: Sequence[np.ndarray]
) -> str:
    """A figure with a line to drag from the left picture to the right, uint8 RGB [H, W, 3] each.

    `caption`, `labels` above the pictures and `names` for those who do not see them are HTML.
    """
    height, width = pictures[0].shape[:2]
    return template("pair.html").substitute(
        index=index,
        caption=caption,
        left=labels[0],
        right=labels[1],
        name_a=names[0],
        name_b=names[1],
        width=width,
        height=height,
        image_a=_data_uri(pictures[0]),
        image_b=_data_uri(pictures[1]),
    )


def page_parts() -> dict[str, str]:
    """What every page with sliders has: its head with the style, script and the choice of a size."""
    return {name: template(f"{name}.html").template.rstrip() for name in ("head", "script", "zoom")}


def _data_uri(pixels: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"
