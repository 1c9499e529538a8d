"""Which of FFmpeg's own lines tell that an input is damaged."""

import re
from dataclasses import dataclass

from flashvsr_trt.runtime.video.ffmpeg_log import LogLine

FLAGGING_CODECS = ("h264", "hevc")
"""Decoders that flag every frame they conceal; their log is full of what is no damage."""

HARMLESS_DEMUXER_LINES = re.compile(
    r"edit list|codec param|[Uu]nsupported|not supported|[Uu]nknown(?!-sized)"
    r"|attachment|metadata|chapter|[Tt]ag\b"
)
HARMLESS_DECODER_LINES = re.compile(
    r"APP\d* field|EXIF|SEI|ICC|overread|comment|profile|option|mmco|[Rr]eference|ref frames|co located"
)

INCOMPLETE_PACKET = re.compile(r"Packet corrupt \(stream = (\d+)")
"""FFmpeg's line for a packet whose bytes are incomplete; packets of the video carry a flag as well."""

TOLD_LINES = 2
"""Lines that a message repeats."""


@dataclass(frozen=True)
class Speech:
    """What FFmpeg said of one file that tells damage."""

    lines: list[str]
    """Errors of the demuxer, and of decoders that flag no frames; each kind once."""
    incomplete: int
    """Incomplete packets of other streams than the video."""
    decoder_errors: int
    """Errors of the decoder of any kind: alone they tell nothing, but a frame that is missing beside them."""


def listen(lines: list[LogLine], demuxer: str, decoder: str, video: int, begin: int) -> Speech:
    """Judges the lines about one file, of whose decoder those before number `begin` do not count.

    `demuxer` and `decoder` are FFmpeg's names, `video` the index of the stream that is decoded.
    """
    found: dict[str, str] = {}
    incomplete: set[str] = set()
    decoder_errors = 0
    for number, line in enumerate(lines):
        packet = INCOMPLETE_PACKET.search(line.text) if line.source == demuxer else None
        if packet:
            if int(packet.group(1)) != video:
                incomplete.add(line.text)
        elif line.source == demuxer and line.is_error:
            if not HARMLESS_DEMUXER_LINES.search(line.text):
                found.setdefault(_kind(line), line.text.strip())
        elif line.source != decoder or not line.is_error or number < begin:
            continue
        elif not HARMLESS_DECODER_LINES.search(line.text):
            decoder_errors += 1
            if decoder not in FLAGGING_CODECS:
                found.setdefault(_kind(line), line.text.strip())
    return Speech(list(found.values())[:TOLD_LINES], len(incomplete), decoder_errors)


def _kind(line: LogLine) -> str:
    return re.sub(r"[0-9A-F]+", "", line.text)
