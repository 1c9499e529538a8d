"""What FFmpeg says while one input is read: its own warnings and errors, kept apart from those of others.

FFmpeg has one log for a whole process. Lines that come from the thread that reads an input belong to that
input; a decoder's worker threads are known by their codec's name alone, so two inputs of one codec that are
decoded at the same moment share those.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from av import logging as av_logging

KEPT_LINES = 200
"""Lines kept of one input; a file that is damaged all over says the same thing thousands of times."""

LIBAV = "libav"
"""PyAV hands FFmpeg's lines to Python loggers under this one."""


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
        self._changing = threading.Lock()

    def open(self, log: FFmpegLog) -> None:
        with self._changing:
            if not self._open:
                self._take_over()
            self._open.append(log)

    def close(self, log: FFmpegLog | None = None) -> None:
        if log is None:  # logging.shutdown closes every handler
            super().close()
            return
        with self._changing:
            if log in self._open:
                self._open.remove(log)
                if not self._open:
                    self._give_back()

    def emit(self, record: logging.LogRecord) -> None:
        source = record.name.removeprefix(f"{LIBAV}.")
        line = LogLine(source, record.levelno >= logging.ERROR, record.getMessage())
        reader = self.readers.get(threading.get_ident())
        for log in [reader] if reader else [log for log in list(self._open) if log.codec == source]:
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
