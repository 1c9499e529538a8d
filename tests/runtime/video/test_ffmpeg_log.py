"""FFmpeg's log level is one for the process: who changes it puts back what was there."""

import threading

import pytest
from av import logging as av_logging

from flashvsr_trt.runtime.video.ffmpeg_log import FFmpegLog, information_logged


def read_properties(opened: threading.Event) -> None:
    with information_logged():
        opened.set()


def open_log(opened: threading.Event) -> None:
    log = FFmpegLog()
    opened.set()
    log.close()


@pytest.mark.parametrize("other", [read_properties, open_log])
def test_two_inputs_that_are_opened_at_once_leave_the_level_as_it_was(other):
    before, opened = av_logging.get_level(), threading.Event()
    thread = threading.Thread(target=other, args=(opened,))
    with information_logged():
        thread.start()
        # It would take the level of this block for the one to put back.
        assert not opened.wait(0.1)
    thread.join(10)
    assert opened.is_set()
    assert av_logging.get_level() == before
