"""Frames out: an encoded file or PNG sequence that appears under its name only when complete."""

import logging
from collections.abc import Callable, Mapping
from types import TracebackType

import numpy as np

from flashvsr_trt.runtime.video_input import VideoInput


class VideoOutput:
    """An open output. Leaving its `with` block without `finish` removes what was written."""

    def write(self, pixels: np.ndarray, pts: int, duration: int) -> None:
        """Encodes one frame, uint8 RGB [H, W, 3]; `pts` and `duration` in the input's time base."""

    def finish(self) -> None:
        """Flushes the encoder and the copied streams, closes the file and gives it its final name."""

    def abort(self) -> None:
        """Removes the unfinished file. Nothing happens after `finish`."""

    def __enter__(self) -> "VideoOutput":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()


def open_output(
    path: str,
    source: VideoInput,
    size: tuple[int, int],
    *,
    codec: str | None = None,
    crf: float | None = None,
    pixel_format: str | None = None,
    threads: int = 0,
    encoder_options: Mapping[str, str] | None = None,
    overwrite: bool = False,
    notify: Callable[[str], None] = logging.getLogger(__name__).warning,
) -> VideoOutput:
    """Opens `path` for frames of `size` (height, width) made from `source`.

    The extension decides the container; a folder (a name with no extension, or an existing folder) or a
    `%05d.png` pattern makes a PNG sequence. Audio, subtitles, chapters and metadata of `source` are copied.
    `codec` None is libx264 (libvpx-vp9 for webm); `crf` None is the codec's visually good value;
    `pixel_format` None is yuv420p, or yuv444p where a side is odd. `encoder_options` go to the encoder as
    they are (`{"preset": "slow"}`). `notify` gets one line for each thing that is not kept or was chosen.

    Raises UsageError for a codec, pixel format or crf that cannot be used, an output that exists without
    `overwrite` or is the input; VideoError when the folder cannot be written. `write` and `finish` raise
    VideoError when the disk is full.
    """
