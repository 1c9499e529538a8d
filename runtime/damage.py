"""Whether an input ended early or was damaged: what the demuxer and decoder said, and what was announced."""

from dataclasses import dataclass
from fractions import Fraction

import av

COUNTED_FORMATS = ("mov", "avi")
"""Formats (FFmpeg's names begin so) whose header says the number of frames."""

COUNT_SLACK = Fraction(1, 50)
"""AVI writers count a few empty frames as well: this part of all, and one, may be missing."""

TIMED_FORMATS = ("matroska", "webm", "flv", "asf")
"""Formats whose header says the duration; elsewhere it is estimated."""

MISSING_SECONDS = Fraction(1, 2)
"""A file may end this much before its announced duration and still be whole."""


@dataclass
class DamageWatch:
    """Notes every packet and failure of one demuxing pass, and says at its end what was wrong."""

    container: av.container.InputContainer
    stream: av.VideoStream
    packets: int = 0
    end: Fraction = Fraction(0)
    read_error: str | None = None
    undecodable: int = 0
    corrupt_frames: int = 0

    def saw_packet(self, packet: av.Packet) -> None:
        """Counts a packet of any stream, and how far in time the file reaches."""
        time = packet.dts if packet.pts is None else packet.pts
        if time is not None:
            self.end = max(self.end, (time + (packet.duration or 0)) * packet.time_base)
        if packet.stream is self.stream:
            self.packets += 1

    def decoding_failures(self) -> str | None:
        """What could not be decoded so far, in words; None when all could."""
        if self.undecodable:
            return f"{self.undecodable} packets could not be decoded"
        if self.corrupt_frames:
            return f"{self.corrupt_frames} frames were damaged"
        return None

    def at_end(self) -> str | None:
        """What is wrong with the file now that it ended, in words; None for a whole file."""
        if self.read_error:
            return self.read_error
        if self.decoding_failures():
            return self.decoding_failures()
        name = self.container.format.name
        announced = self.stream.frames
        if name.startswith(COUNTED_FORMATS) and announced - self.packets > 1 + announced * COUNT_SLACK:
            return f"{self.packets} frames of {announced} announced"
        if name.startswith(TIMED_FORMATS) and self.container.duration:
            start = Fraction(self.container.start_time or 0, av.time_base)
            announced_end = start + Fraction(self.container.duration, av.time_base)
            if announced_end - self.end > MISSING_SECONDS:
                return f"it stops at {float(self.end):.2f} s of {float(announced_end):.2f} s announced"
        return None
