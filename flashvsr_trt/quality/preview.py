"""Half a second of a clip, before and after: two PNGs of one frame and a page with a slider between them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from html import escape
from pathlib import Path

import numpy as np

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.errors import VideoError
from flashvsr_trt.files.new import new_folder, write_errors
from flashvsr_trt.notices import Notify, phase
from flashvsr_trt.quality.page import page_parts, png, slider, template
from flashvsr_trt.runtime.executors import Executors
from flashvsr_trt.runtime.output_names import default_output
from flashvsr_trt.runtime.pipeline import upscale_video
from flashvsr_trt.runtime.request import RunOptions
from flashvsr_trt.runtime.side_by_side import before
from flashvsr_trt.runtime.video.beside import NOTHING, Beside
from flashvsr_trt.runtime.video.info import FrameOutput, VideoInput
from flashvsr_trt.runtime.video.input import open_input

AROUND = Fraction(1, 4)
"""Seconds before and after the time that are upscaled: a frame is better with some before it."""

FILES = ("before.png", "after.png", "index.html")


@dataclass
class _Kept(FrameOutput):
    """Keeps the last frame that begins by a time, in units of the input's time base, or else the first."""

    until: int
    frame: np.ndarray | None = None
    end: int = 0
    """When the last frame ends."""

    def write(self, pixels: np.ndarray, pts: int, duration: int, beside: Beside = NOTHING) -> None:
        self.end = pts + duration
        if self.frame is None or pts <= self.until:
            self.frame = pixels

    def finish(self) -> None: ...

    def abort(self) -> None: ...


def write_preview(options: RunOptions, at: Fraction, notify: Notify) -> Path:
    """Upscale `options.input` around `at` seconds; the folder of FILES, `INPUT_2x_preview` by default.

    Raises:
        FlashVSRError: one of its kinds, as `upscale_file`; UsageError where FILES exist without `overwrite`.
    """
    beside = Path(default_output(options.input, options.scale, word="_preview"))
    folder = options.output or str(beside.with_suffix(""))
    start = max(Fraction(0), at - AROUND)
    part = replace(options, start=start, end=at + AROUND, duration=None, frames=None)
    with (
        write_errors(folder),
        new_folder(folder, overwrite=options.overwrite, owns=FILES.__contains__) as made,
    ):
        with open_input(options.input, part, notify) as source:
            info = source.info
            until = math.floor((at - info.cut) / info.time_base)
            shown, kept = _Kept(until), _Kept(until)
            watched = replace(source, frames=_watched(source, shown))
            with (
                Executors(notify).session(part, info.height, info.width) as session,
                phase("upscaling", "frames") as report,
            ):
                run = upscale_video(watched, session, kept, batch=part.chunk_size, progress=report)
        if shown.frame is None or kept.frame is None or kept.end < until:
            end = float(info.cut + kept.end * info.time_base)
            raise VideoError(f"no frame of {options.input} at {float(at):g} s: it ends at {end:.3f} s")
        geometry = session.stream.geometry
        pictures = before(shown.frame, geometry), kept.frame
        page = preview_page(options.input, at, geometry, pictures, session.stream.preset.name, run.frames)
        for name, content in zip(FILES, (*map(png, pictures), page.encode()), strict=True):
            (Path(made.part) / name).write_bytes(content)
        made.finish()
    return Path(folder)


def preview_page(
    name: str,
    at: Fraction,
    geometry: Geometry,
    pictures: Sequence[np.ndarray],
    preset: str,
    frames: int,
) -> str:
    """The page as text; it loads nothing. `pictures` are before and after, uint8 RGB [H, W, 3]."""
    height, width = geometry.output
    about = (
        f"Before: the frame of {geometry.width}x{geometry.height} by bicubic interpolation. After: {preset}, "
        f"with {frames} frames around it upscaled."
    )
    labels = (f"before, {geometry.width}x{geometry.height}", f"after, {width}x{height}")
    return template("preview.html").substitute(
        **page_parts(),
        name=escape(name),
        seconds=f"{float(at):g}",
        size=f"{geometry.width}x{geometry.height} to {width}x{height}",
        about=escape(about),
        pair=slider(0, "", labels, labels, pictures),
    )


def _watched(source: VideoInput, shown: _Kept):
    """The same frames, shown to `shown` as they pass."""
    for frame in source:
        shown.write(frame.pixels, frame.pts, frame.duration)
        yield frame
