"""Frames out as numbered PNG files, which appear under their names only when all are there."""

import os
from collections.abc import Callable
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from flashvsr_trt.errors import UsageError, VideoError
from flashvsr_trt.files import PartFile, is_stream, new_folder, write_errors
from flashvsr_trt.runtime.image_sequence import is_pattern, matching_numbers, numbered_names
from flashvsr_trt.runtime.video_color import encoded_color_tags, from_rgb
from flashvsr_trt.runtime.video_info import VideoInfo
from flashvsr_trt.targets import identity, refuse_input

DEFAULT_PATTERN = "%05d.png"
FIRST_NUMBER = 1
"""As FFmpeg counts."""

PIXEL_FORMAT = "rgb24"


def is_image_output(path: str) -> bool:
    """Whether `path` names a folder (it is one, ends in a slash, or has no extension) or a pattern."""
    if is_stream(path):
        return False
    return os.path.isdir(path) or path.endswith("/") or is_pattern(path) or not os.path.splitext(path)[1]


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


class ImageOutput:
    """A PNG sequence. It holds the video alone: what else the input has is announced as not kept.

    Raises UsageError for another image type, or files of the sequence that exist without `overwrite`.
    """

    def __init__(
        self, path: str, info: VideoInfo, threads: int, overwrite: bool, notify: Callable[[str], None]
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
        self._color = encoded_color_tags(info.color, PIXEL_FORMAT)
        self._sample_aspect_ratio = info.sample_aspect_ratio
        self._time_base = info.time_base
        self._threads = threads
        self._encoder = None
        self._reformatter = VideoReformatter()
        self._written = 0
        names = numbered_names(self._pattern)
        with write_errors(self._pattern, VideoError):
            self._new = new_folder(
                os.path.dirname(self._pattern) or ".",
                overwrite=overwrite,
                owns=lambda name: names.fullmatch(name) is not None,
            )

    def write(self, pixels: np.ndarray, pts: int, duration: int) -> None:
        """Encodes one frame, uint8 RGB [H, W, 3]. The timestamps order the files and are not kept.

        Raises VideoError when it cannot be written.
        """
        if self._encoder is None:
            self._encoder = self._open_encoder(pixels.shape[0], pixels.shape[1])
        frame = from_rgb(pixels, self._color, PIXEL_FORMAT, self._reformatter)
        frame.pts, frame.duration, frame.time_base = pts, duration, self._time_base
        self._save(self._encoder.encode(frame))

    def finish(self) -> None:
        """Writes what is left in the encoder and gives the files their final names."""
        if self._encoder is not None:
            self._save(self._encoder.encode(None))
        with write_errors(self._pattern, VideoError):
            self._new.finish()

    def abort(self) -> None:
        """Removes the unfinished files. Nothing happens after `finish`."""
        self._new.abort()

    def __enter__(self) -> "ImageOutput":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    def _open_encoder(self, height: int, width: int) -> av.VideoCodecContext:
        encoder = av.CodecContext.create("png", "w")
        encoder.height, encoder.width, encoder.pix_fmt = height, width, PIXEL_FORMAT
        encoder.time_base = self._time_base
        encoder.thread_count, encoder.thread_type = self._threads, "FRAME"
        if self._sample_aspect_ratio:
            encoder.sample_aspect_ratio = self._sample_aspect_ratio
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
