"""A comparison as one static HTML file: numbers, a plot, and a slider for each shown frame."""

import base64
from collections.abc import Sequence
from fractions import Fraction
from html import escape
from importlib.resources import files
from string import Template

import av
import numpy as np

from flashvsr_trt.quality.compare import Comparison
from flashvsr_trt.quality.plot import plot
from flashvsr_trt.quality.report import LABELS, TABLE_COLUMNS, in_words, remarks
from flashvsr_trt.quality.shown_frames import ShownFrame
from flashvsr_trt.quality.summary import MEASURES, Summary, summarise

TEMPLATES = files("flashvsr_trt.quality")


def comparison_page(comparison: Comparison, shown: Sequence[ShownFrame]) -> str:
    """The page as text. It loads nothing: styles, script, plot and lossless images are inside."""
    name_a, name_b = (escape(name) for name in comparison.names)
    worst = summarise(comparison.frames, "luma_psnr").worst_frame
    (count_a, count_b), compared = comparison.counts, len(comparison.frames)
    counts = f"{compared} frames"
    if count_a != count_b:
        counts = f"the first {compared} frames (A has {count_a}, B has {count_b})"
    return _template("page.html").substitute(
        name_a=name_a,
        name_b=name_b,
        width=comparison.width,
        height=comparison.height,
        frames=counts,
        header="".join(f'<th scope="col">{cell}</th>' for cell in TABLE_COLUMNS),
        rows="".join(_row(summarise(comparison.frames, measure)) for measure in LABELS),
        remarks="".join(f"<p>{escape(line)}</p>" for line in remarks(comparison)),
        plot=plot(comparison.frames, [pair.frame.index for pair in shown]),
        pairs="".join(_pair(pair, name_a, name_b, pair.frame.index == worst) for pair in shown),
    )


def png(pixels: np.ndarray) -> bytes:
    """A PNG file of a frame, uint8 RGB [H, W, 3]."""
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width, encoder.pix_fmt = *pixels.shape[:2], "rgb24"
    encoder.time_base = Fraction(1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
    return b"".join(bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None)))


def _template(name: str) -> Template:
    return Template(TEMPLATES.joinpath(name).read_text(encoding="utf-8"))


def _row(summary: Summary) -> str:
    label, *values = (escape(cell(summary)) for cell in TABLE_COLUMNS.values())
    return f'<tr><th scope="row">{label}</th>{"".join(f"<td>{value}</td>" for value in values)}</tr>'


def _pair(pair: ShownFrame, name_a: str, name_b: str, worst: bool) -> str:
    height, width = pair.a.shape[:2]
    return _template("pair.html").substitute(
        index=pair.frame.index,
        seconds=f"{pair.frame.seconds:.2f}",
        worst=" (least luma PSNR)" if worst else "",
        measures=", ".join(
            f"{LABELS[measure]} {in_words(measure, value(pair.frame))}" for measure, value in MEASURES.items()
        ),
        name_a=name_a,
        name_b=name_b,
        width=width,
        height=height,
        image_a=_data_uri(pair.a),
        image_b=_data_uri(pair.b),
    )


def _data_uri(pixels: np.ndarray) -> str:
    return f"data:image/png;base64,{base64.b64encode(png(pixels)).decode()}"
