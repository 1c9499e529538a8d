"""The index at the end of an AVI file, read for what it counts: FFmpeg's own grows with what it finds."""

import struct

CHUNK = struct.Struct("<4sI")
ENTRY_BYTES = 16
LARGEST_INDEX = 1 << 26
"""Bytes of an index that are read; one of more than four million entries is not looked at."""


def indexed_frames(path: str, size: int, stream: int) -> int | None:
    """Frames of a stream that hold something, by the index of a file of `size` bytes.

    None where the file has no such index in full: it was cut, it is longer than its first RIFF chunk says
    (OpenDML), or its chunks do not follow one another.
    """
    with open(path, "rb") as file:
        head = file.read(12)
        if len(head) < 12 or head[:4] != b"RIFF" or head[8:] != b"AVI ":
            return None
        end, place = CHUNK.unpack(head[:8])[1] + 8, 12
        if size < end or _goes_on(file, end):
            return None
        while place + 8 <= end:
            file.seek(place)
            kind, length = CHUNK.unpack(file.read(8))
            if kind == b"idx1" and length <= min(LARGEST_INDEX, size - place):
                return _filled(file.read(length), stream)
            place += 8 + length + length % 2
    return None


def _goes_on(file, place: int) -> bool:
    """Whether another RIFF chunk follows."""
    file.seek(place)
    return file.read(4) == b"RIFF"


def _filled(index: bytes, stream: int) -> int:
    """Entries of the stream's pictures (`00dc`, `00db`) that have bytes."""
    wanted = (f"{stream:02d}dc".encode(), f"{stream:02d}db".encode())
    entries = (index[place : place + ENTRY_BYTES] for place in range(0, len(index) - 15, ENTRY_BYTES))
    return sum(entry[:4] in wanted and entry[12:] != bytes(4) for entry in entries)
