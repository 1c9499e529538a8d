"""Frames out as PNG files, one or numbered, which appear under their names only when all are there."""

import os

import av
import numpy as np

from flashvsr_trt.errors import UsageError, VideoError
from flashvsr_trt.files.image_sequence import IMAGE_EXTENSIONS, is_pattern, matching_numbers, numbered_names
from flashvsr_trt.files.new import (
    NewFile,
    NewFolder,
    OpenedFile,
    PartFile,
    is_stream,
    new_file,
    new_folder,
    write_errors,
)
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


def names_folder(path: str) -> bool:
    """Whether `path` names a folder: it is one, ends in a slash, or has no extension."""
    if not path or is_stream(path) or os.path.isfile(path):
        return False
    return os.path.isdir(path) or path.endswith(("/", os.sep)) or not os.path.splitext(path)[1]


def is_image_output(path: str) -> bool:
    """Whether `path` names a folder or a numbered pattern of pictures."""
    # "50%done.mp4" is a video.
    return names_folder(path) or (
        is_pattern(path) and path.lower().endswith(IMAGE_EXTENSIONS) and not os.path.isfile(path)
    )


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
    """PNG pictures: `path` is one of them, or else a folder or a pattern of as many as there are frames.

    They hold the video alone: what else the input has is announced as not kept. A pixel format of None holds
    the input's bits and alpha. `upscaled` is the frames' size before --fit crop.

    Raises UsageError for another image type or a pixel format that PNG lacks, or files of the sequence that
    exist without `overwrite`; where `path` is one picture, also for more than one frame.
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
        self._one = not is_image_output(path)
        self._pattern = path if self._one else picture_pattern(path)
        if not self._pattern.lower().endswith(".png"):
            raise UsageError(f"pictures are written as PNG, not as {path}; end the name in .png")
        if self._one and (info.frames or 1) > 1:
            raise _more_than_one(path)
        for existing in () if self._one else matching_numbers(self._pattern).values():
            refuse_input("the output", existing, [info.name])
        for lost, what in (
            (info.other_streams, f"streams next to the video ({info.other_streams}) are not kept"),
            (info.display_matrix, "the rotation is not kept, the frames are as stored"),
        ):
            if lost:
                notify(f"{path} is {'a picture' if self._one else 'a PNG sequence'}: {what}")
        self._info = info
        self._format = options.pixel_format or PIXEL_FORMATS[info.bits > 8, info.alpha]
        if self._format not in PIXEL_FORMATS.values():
            raise UsageError(f"no {self._format} in PNG; use one of {', '.join(PIXEL_FORMATS.values())}")
        announce_losses("PNG", self._format, info, notify)
        self._pictures = PictureWriter(info, size, upscaled, self._format, "left")
        self._encoder = self._open_encoder(size, options.threads)
        self._written = 0
        with write_errors(self._pattern, VideoError):
            self._new = self._open_files(options.overwrite)

    def _open_files(self, overwrite: bool) -> NewFile | OpenedFile | NewFolder:
        if self._one:
            return new_file(self._pattern, overwrite=overwrite)
        names = numbered_names(self._pattern)
        return new_folder(
            os.path.dirname(self._pattern) or ".",
            overwrite=overwrite,
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
            with write_errors(self._pattern, VideoError):
                self._save_picture(bytes(packet))
            self._written += 1

    def _save_picture(self, picture: bytes) -> None:
        if isinstance(self._new, NewFolder):
            name = os.path.basename(self._pattern) % (FIRST_NUMBER + self._written)
            with PartFile(os.path.join(self._new.part, name), "x") as file:
                file.write(picture)
        elif self._written:
            raise _more_than_one(self._pattern)
        else:
            self._new.file.write(picture)


def _more_than_one(path: str) -> UsageError:
    return UsageError(f"{path} holds one image only; use a pattern such as out/%05d.png, or --frames 1")
