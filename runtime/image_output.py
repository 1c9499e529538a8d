"""Frames out as numbered PNG files, which appear under their names only when all are there."""

import os
import shutil
from collections.abc import Callable
from types import TracebackType

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.image_sequence import is_pattern, matching_numbers
from flashvsr_trt.runtime.part_file import PartFile, named_errors
from flashvsr_trt.runtime.video_color import encoded_color_tags, from_rgb
from flashvsr_trt.runtime.video_info import VideoInfo

DEFAULT_PATTERN = "%05d.png"
FIRST_NUMBER = 1
"""As FFmpeg counts."""

PIXEL_FORMAT = "rgb24"


def is_image_output(path: str) -> bool:
    """Whether `path` names a folder (it is one, ends in a slash, or has no extension) or a pattern."""
    return os.path.isdir(path) or path.endswith("/") or is_pattern(path) or not os.path.splitext(path)[1]


class ImageOutput:
    """A PNG sequence. It holds the video alone: what else the input has is announced as not kept.

    Raises UsageError for another image type, or files of the sequence that exist without `overwrite`.
    """

    def __init__(
        self, path: str, info: VideoInfo, threads: int, overwrite: bool, notify: Callable[[str], None]
    ) -> None:
        self._pattern = path if is_pattern(path) else os.path.join(path, DEFAULT_PATTERN)
        if not self._pattern.lower().endswith(".png"):
            raise UsageError(f"image sequences are written as PNG, not as {path}; end the pattern in .png")
        self._folder = os.path.dirname(self._pattern) or "."
        self._check_target(info, overwrite)
        for lost, what in (
            (info.other_streams, f"the {info.other_streams} streams next to the video are not kept"),
            (info.display_matrix, "the rotation is not kept, the frames are as stored"),
        ):
            if lost:
                notify(f"{path} is a PNG sequence: {what}")
        # A new folder appears with one rename; in an existing one the files are moved up one by one.
        self._exists = os.path.isdir(self._folder)
        self._part = os.path.join(self._folder, ".part") if self._exists else f"{self._folder}.part"
        self._color = encoded_color_tags(info.color, PIXEL_FORMAT)
        self._sample_aspect_ratio = info.sample_aspect_ratio
        self._time_base = info.time_base
        self._threads = threads
        self._encoder = None
        self._reformatter = VideoReformatter()
        self._written = 0
        with named_errors(self._pattern):
            if os.path.isdir(self._part):
                shutil.rmtree(self._part)
            os.mkdir(self._part)
        self._open = True

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
        with named_errors(self._pattern):
            if self._exists:
                for stale in matching_numbers(self._pattern).values():
                    os.unlink(stale)
                for name in sorted(os.listdir(self._part)):
                    os.replace(os.path.join(self._part, name), os.path.join(self._folder, name))
                os.rmdir(self._part)
            else:
                os.rename(self._part, self._folder)
        self._open = False

    def abort(self) -> None:
        """Removes the unfinished files. Nothing happens after `finish`."""
        if self._open:
            self._open = False
            shutil.rmtree(self._part)

    def __enter__(self) -> "ImageOutput":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    def _check_target(self, info: VideoInfo, overwrite: bool) -> None:
        existing = [name for _, name in sorted(matching_numbers(self._pattern).items())]
        if existing and any(os.path.samefile(self._folder, folder) for folder in _folders(info)):
            raise UsageError(f"the output {self._pattern} is among the input's files; choose another folder")
        if existing and not overwrite:
            raise UsageError(
                f"{existing[0]} exists already; choose another folder or overwrite the sequence (--overwrite)"
            )

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
            with named_errors(self._pattern), PartFile(os.path.join(self._part, name), "w") as file:
                file.write(bytes(packet))


def _folders(info: VideoInfo) -> list[str]:
    """Folders the input's files lie in."""
    folder = info.name if os.path.isdir(info.name) else os.path.dirname(info.name) or "."
    return [folder] if os.path.isdir(folder) else []
