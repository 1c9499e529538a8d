"""Unfinished files: written under a `.part` name, and what goes wrong in writing them said in one line."""

import errno
import io
import os
from collections.abc import Iterator
from contextlib import contextmanager

from flashvsr_trt.errors import VideoError


class PartFile(io.FileIO):
    """An unbuffered file that writes all of what it is given, as FFmpeg expects of it."""

    def write(self, data: bytes) -> int:
        """Writes `data` whole and returns its length. Raises OSError when the disk is full."""
        rest = memoryview(data)
        while rest:
            rest = rest[super().write(rest) :]
        return len(data)


def part_name(path: str) -> str:
    """`out.mp4` is written as `out.part.mp4`."""
    stem, extension = os.path.splitext(path)
    return f"{stem}.part{extension}"


@contextmanager
def named_errors(path: str) -> Iterator[None]:
    """Turns what the system or FFmpeg says while `path` is written into a VideoError."""
    try:
        yield
    except OSError as error:  # FFmpeg's own errors of the system are OSErrors too
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "no space is left for it; free some or write elsewhere"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR):
            advice = f"check that the folder {os.path.dirname(path) or '.'} exists and can be written"
        else:
            advice = "check the disk and the encoder's options"
        raise VideoError(
            f"{path} cannot be written ({reason}): {advice}; nothing unfinished is left"
        ) from error
