"""Frames out as numbered PNG files, which appear under their names only when all are there."""

import os

import av
import numpy as np

from flashvsr_trt.errors import UsageError, VideoError
from flashvsr_trt.files.image_sequence import IMAGE_EXTENSIONS, is_pattern, matching_numbers, numbered_names
from flashvsr_trt.files.new import PartFile, is_stream, new_folder, write_errors
from flashvsr_trt.files.targets import identity, refuse_input
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.request import OutputOptions
from flashvsr_trt.runtime.video.beside import NOTHING, Beside
from flashvsr_trt.runtime.video.color import RGB_FORMATS
from flashvsr_trt.runtime.video.encoder import announce_losses
from flashvsr_trt.runtime.video.info import FrameOutput, VideoInfo
from flashvsr_trt.runtime.video.picture import PictureWriter

DEFAULT_PATTERN = "%05d.png"
FIRST_NUMBER = 1
"""As FFmpeg counts."""

PIXEL_FORMATS = {kind: name.replace("le", "be") for kind, name in RGB_FORMATS.items()}
"""Those that PNG has, which is big-endian."""


def is_image_output(path: str) -> bool:
    """Whether `path` names a folder (it is one, ends in a slash, or has no extension) or a pattern."""
    if is_stream(path) or os.path.isfile(path):
        return False
    suffix = os.path.splitext(path)[1]
    if os.path.isdir(path) or path.endswith("/") or not suffix:
        return True
    # "50%done.mp4" is a video.
    return is_pattern(path) and suffix.lower() in IMAGE_EXTENSIONS


def picture_pattern(path: str) -> str:
    """The numbered pattern that an image output is written by; in a folder, DEFAULT_PATTERN."""
    return path if is_pattern(path) else os.path.join(path, DEFAULT_PATTERN)


def refuse_among_pictures(path: str, what: str, file: str) -> None:
    """Raise UsageError where a file, called `what` in the error, is the folder of `path` or a picture."""
    pattern = picture_pattern(path)
    folder, name = os.path.dirname(pattern) or ".", os.path.basename(file)
    inside = identity(os.path.dirname(file) or ".") == identity(folder)
    if identity(file) == identity(folder) or (inside and numbered_names(pattern).fullmatch(name)):
        raise UsageError(f"{what} {file} is among the output's pictures; give it another name")


class ImageOutput(FrameOutput):
    """A PNG sequence. It holds the video alone: what else the input has is announced as not kept.

    A pixel format of None holds the input's bits and alpha. `upscaled` is the frames' size before --fit crop.

    Raises UsageError for another image type or a pixel format that PNG lacks, or files of the sequence that
    exist without `overwrite`.
    """

    def __init__(
        self,
        path: str,
        info: VideoInfo,
        size: tuple[int, int],
        upscaled: tuple[int, int],
        options: OutputOptions,
        notify: Notify,
    ) -> None:
        self._pattern = picture_pattern(path)
        if not self._pattern.lower().endswith(".png"):
            raise UsageError(f"image sequences are written as PNG, not as {path}; end the pattern in .png")
        for existing in matching_numbers(self._pattern).values():
            refuse_input("the output", existing, [info.name])
        for lost, what in (
            (info.other_streams, f"the {info.other_streams} streams next to the video are not kept"),
            (info.display_matrix, "the rotation is not kept, the frames are as stored"),
        ):
            if lost:
                notify(f"{path} is a PNG sequence: {what}")
        self._info = info
        self._format = options.pixel_format or PIXEL_FORMATS[info.bits > 8, info.alpha]
        if self._format not in PIXEL_FORMATS.values():
            raise UsageError(f"no {self._format} in PNG; use one of {', '.join(PIXEL_FORMATS.values())}")
        announce_losses("PNG", self._format, info, notify)
        self._pictures = PictureWriter(info, size, upscaled, self._format, "left")
        self._encoder = self._open_encoder(size, options.threads)
        self._written = 0
        names = numbered_names(self._pattern)
        with write_errors(self._pattern, VideoError):
            self._new = new_folder(
                os.path.dirname(self._pattern) or ".",
                overwrite=options.overwrite,
                owns=lambda name: names.fullmatch(name) is not None,
            )

    def write(self, pixels: np.ndarray, pts: int, duration: int, beside: Beside = NOTHING) -> None:
        """Encodes one frame. The timestamps order the files and are not kept."""
        frame = self._pictures.frame(pixels, beside)
        frame.pts, frame.duration, frame.time_base = pts, duration, self._info.time_base
        self._save(self._encoder.encode(frame))

    def finish(self) -> None:
        self._save(self._encoder.encode(None))
        with write_errors(self._pattern, VideoError):
            self._new.finish()

    def abort(self) -> None:
        self._new.abort()

    def _open_encoder(self, size: tuple[int, int], threads: int) -> av.VideoCodecContext:
        encoder = av.CodecContext.create("png", "w")
        encoder.height, encoder.width, encoder.pix_fmt = *size, self._format
        encoder.time_base = self._info.time_base
        encoder.thread_count, encoder.thread_type = threads, "FRAME"
        if self._info.sample_aspect_ratio:
            encoder.sample_aspect_ratio = self._info.sample_aspect_ratio
        return encoder

    def _save(self, packets: list[av.Packet]) -> None:
        for packet in packets:
            name = os.path.basename(self._pattern) % (FIRST_NUMBER + self._written)
            self._written += 1
            with (
                write_errors(self._pattern, VideoError),
                PartFile(os.path.join(self._new.part, name), "x") as file,
            ):
                file.write(bytes(packet))
