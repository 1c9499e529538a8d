"""Whether a file stops in the middle of something, where FFmpeg's demuxer says nothing of it."""

import io
import os
import struct

import numpy as np

SYNC = 0x47
TRANSPORT_PACKETS = {188: 0, 192: 4, 204: 0}
"""Sizes of MPEG-TS packets, and where in one the sync byte lies."""

PACKED_FORMATS = {"yuv4mpegpipe": 0, "gif": 1}
"""Formats whose packets fill the file, and bytes that may follow the last one."""

AVI_CHUNK = struct.Struct("<4sI")
AVI_ENTRY = np.dtype([("kind", "S4"), ("flags", "<u4"), ("place", "<u4"), ("size", "<u4")])
LARGEST_AVI_INDEX = 1 << 26
"""Bytes of an index that are read; one of more than four million entries is not looked at."""


class CountedPipe(io.FileIO):
    """A pipe that FFmpeg reads from, with the bytes it gave.

    Unbuffered: a thread blocked in a buffered stdin stops Python from exiting after Ctrl-C.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, closefd=False)
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; none at the end."""
        data = super().read(size)
        self.count += len(data)
        return data


def what_is_cut(path: str | None, format_name: str, read_to: int, size: int) -> str | None:
    """What the end of a file lacks, in words; None when nothing is known to lack.

    `read_to` is the byte after the last packet, `size` that of the file or of what a pipe gave. `path` is
    None for a pipe.
    """
    if format_name in PACKED_FORMATS and read_to and size - read_to > PACKED_FORMATS[format_name]:
        return f"its last {size - read_to} bytes are no whole frame"
    if format_name.startswith("mov") and path is not None and size:
        return _broken_boxes(path, size)
    if format_name == "mpegts" and path is not None and size:
        packet = _transport_packet_size(path)
        if packet and size % packet:
            return f"it ends {size % packet} bytes into a transport packet of {packet}"
    return None


def file_size(path: str) -> int:
    """Bytes of a file; 0 where there is none, as behind a URL."""
    return os.path.getsize(path) if os.path.isfile(path) else 0


def _transport_packet_size(path: str) -> int | None:
    """188, 192 or 204, when the file begins with such packets."""
    with open(path, "rb") as file:
        head = file.read(max(TRANSPORT_PACKETS) * 6)
    for size, first in TRANSPORT_PACKETS.items():
        places = range(first, len(head), size)
        if len(places) >= 3 and all(head[place] == SYNC for place in places):
            return size
    return None


def _broken_boxes(path: str, size: int) -> str | None:
    """Where the boxes of an mp4 or mov do not follow one another up to the end, in words.

    Bytes of 0 behind the last box are padding. FFmpeg stops there too, without a word.
    """
    place = 0
    with open(path, "rb") as file:
        while place + 8 <= size:
            file.seek(place)
            length, kind, large = struct.unpack(">I4sQ", file.read(16).ljust(16, b"\0"))
            if kind == bytes(4):
                file.seek(place)
                blocks = iter(lambda: file.read(1 << 20), b"")
                padding = not any(any(block) for block in blocks)
                return None if padding else f"what is at byte {place} is no box of its format"
            if not all(chr(byte).isalnum() or byte in b" -_\xa9" for byte in kind):
                return f"what is at byte {place} is no box of its format"
            if length == 0:  # the last box reaches to the end
                return None
            length = large if length == 1 else length
            if length < 8:
                return f"the box at byte {place} says it has {length} bytes"
            place += length
    return f"its last box should end at byte {place}, and it has {size}" if place > size else None


def indexed_frames(path: str, size: int, stream: int) -> int | None:
    """Frames of a stream that hold something, by the index at the end of an AVI file of `size` bytes.

    FFmpeg's own index grows with what it finds. None where the file has no such index in full: it was cut,
    it is longer than its first RIFF chunk says (OpenDML), or its chunks do not follow one another.
    """
    with open(path, "rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"AVI ":
            return None
        end, place = AVI_CHUNK.unpack(head[:8])[1] + 8, 12
        file.seek(end)
        if size < end or file.read(4) == b"RIFF":
            return None
        while place + 8 <= end:
            file.seek(place)
            kind, length = AVI_CHUNK.unpack(file.read(8))
            if kind == b"idx1" and length <= min(LARGEST_AVI_INDEX, size - place):
                whole = length - length % AVI_ENTRY.itemsize
                entries = np.frombuffer(file.read(length)[:whole], AVI_ENTRY)
                pictures = np.isin(entries["kind"], [f"{stream:02d}dc".encode(), f"{stream:02d}db".encode()])
                return int((pictures & (entries["size"] > 0)).sum())
            place += 8 + length + length % 2
    return None
