"""What FFmpeg says while one input is read, apart from what it says of others, and what of it tells damage.

FFmpeg has one log for a whole process. Lines that come from the thread that reads an input belong to that
input; a decoder's worker threads are known by their codec's name alone, so two inputs of one codec that are
decoded at the same moment share those. What other threads of Python cause, an encoder says.
"""

import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from av import logging as av_logging

KEPT_LINES = 200
"""Lines kept of one input; a file that is damaged all over says the same thing thousands of times."""

LIBAV = "libav"
"""PyAV hands FFmpeg's lines to Python loggers under this one."""

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

FOREIGN_THREAD = "Dummy-"
"""How Python names a thread that it did not start, as FFmpeg's workers are."""

TOLD_LINES = 2
"""Lines that a message repeats."""


_LEVEL = threading.RLock()
"""Who changes FFmpeg's level, one for the process, puts it back before another thread may look at it."""


@dataclass(frozen=True)
class LogLine:
    """One line: `source` is FFmpeg's name of what said it (`h264`, `matroska,webm`)."""

    source: str
    is_error: bool
    text: str


class FFmpegLog:
    """The lines about one input, from its opening to `close`. `lines` grows while it is listened to."""

    def __init__(self) -> None:
        self.lines: list[LogLine] = []
        self.codec: str | None = None
        """The decoder whose worker threads speak of this input."""
        _LISTENERS.open(self)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """FFmpeg's lines from this thread are about this input inside the `with` block."""
        readers, thread = _LISTENERS.readers, threading.get_ident()
        before = readers.get(thread)
        readers[thread] = self
        try:
            yield
        finally:
            readers[thread] = before

    def close(self) -> None:
        """Stops listening; FFmpeg is silent again when the last input is closed. Twice is no fault."""
        _LISTENERS.close(self)


class _Listeners(logging.Handler):
    """All inputs that are being read, and which thread reads which."""

    def __init__(self) -> None:
        super().__init__()
        self._open: list[FFmpegLog] = []
        self.readers: dict[int, FFmpegLog | None] = {}
        """By thread."""
        self._before: tuple[int | None, bool, bool] = None, True, True

    def open(self, log: FFmpegLog) -> None:
        with _LEVEL:
            if not self._open:
                self._take_over()
            self._open.append(log)

    def close(self, log: FFmpegLog | None = None) -> None:
        if log is None:  # logging.shutdown closes every handler
            super().close()
            return
        with _LEVEL:
            if log in self._open:
                self._open.remove(log)
                if not self._open:
                    self._give_back()

    def emit(self, record: logging.LogRecord) -> None:
        source = record.name.removeprefix(f"{LIBAV}.")
        line = LogLine(source, record.levelno >= logging.ERROR, record.getMessage())
        reader = self.readers.get(threading.get_ident())
        worker = (record.threadName or "").startswith(FOREIGN_THREAD)
        of_codec = [log for log in list(self._open) if worker and log.codec == source]
        for log in [reader] if reader else of_codec:
            if len(log.lines) < KEPT_LINES:
                log.lines.append(line)

    def _take_over(self) -> None:
        logger = logging.getLogger(LIBAV)
        level = av_logging.get_level()
        self._before = level, logger.propagate, av_logging.get_skip_repeated()
        logger.addHandler(self)
        if level is None:  # nobody wants FFmpeg's lines on a terminal
            logger.propagate = False
        if level is None or level < av_logging.WARNING:
            av_logging.set_level(av_logging.WARNING)
        # A line that two files cause one after the other is said of both.
        av_logging.set_skip_repeated(False)

    def _give_back(self) -> None:
        logger = logging.getLogger(LIBAV)
        level, logger.propagate, skip_repeated = self._before
        logger.removeHandler(self)
        av_logging.set_level(level)
        av_logging.set_skip_repeated(skip_repeated)


_LISTENERS = _Listeners()


@contextmanager
def information_logged() -> Iterator[list[tuple[int, str, str]]]:
    """What FFmpeg logs in this thread, down to information; PyAV's level is put back afterwards."""
    with _LEVEL:
        level = av_logging.get_level()
        av_logging.set_level(av_logging.INFO)
        try:
            with av_logging.Capture() as messages:
                yield messages
        finally:
            av_logging.set_level(level)


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
