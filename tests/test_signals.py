"""Signals that end a command: raised once, ignored where they were, and handled as before afterwards."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from flashvsr_trt import signals
from flashvsr_trt.signals import END_SIGNALS, Ended, ended_by_signals, exit_code, signals_wait
from tests.fork_server import ROOT


def send(number):
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def usual_handlers():
    before = {number: signal.getsignal(number) for number in END_SIGNALS}
    for number in END_SIGNALS:
        default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        signal.signal(number, default)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", END_SIGNALS)
def test_a_signal_is_an_interrupt_with_its_number(number):
    before = {other: signal.getsignal(other) for other in END_SIGNALS}
    with pytest.raises(KeyboardInterrupt) as ended, ended_by_signals():
        send(number)
    assert str(ended.value) == number.name
    assert exit_code(ended.value) == 128 + number
    assert {other: signal.getsignal(other) for other in END_SIGNALS} == before


def test_a_plain_interrupt_is_sigint():
    assert exit_code(KeyboardInterrupt()) == 130


def test_further_signals_do_not_disturb_the_cleaning_up(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    with ended_by_signals():
        with pytest.raises(Ended):
            send(signal.SIGTERM)
        send(signal.SIGTERM)
        send(signal.SIGINT)
        now[0] += signals.CLEANING_SECONDS + 1
        with pytest.raises(Ended):
            send(signal.SIGINT)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_what_is_ignored_or_handled_stays_so(handler):
    signal.signal(signal.SIGHUP, handler)
    with ended_by_signals():
        assert signal.getsignal(signal.SIGHUP) is handler
        send(signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is handler


def test_nothing_changes_in_another_thread():
    seen = []

    def look():
        with ended_by_signals(), signals_wait():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]


def test_signals_wait_for_a_commit():
    done = []

    def commit():
        with ended_by_signals(), signals_wait():
            with signals_wait():
                send(signal.SIGTERM)
            done.append("inner")
            done.append("outer")

    with pytest.raises(Ended, match="SIGTERM"):
        commit()
    assert done == ["inner", "outer"]


PARENT = """
import multiprocessing, os, threading
from flashvsr_trt.signals import end_with_parent

def work():
    end_with_parent()
    os.write(1, b"working\\n")
    threading.Event().wait()

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=work)
    worker.start()
    worker.join()
"""


def test_a_worker_ends_with_a_killed_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout.readline() == b"working\n"
        parent.kill()
        # The end of the pipe is seen when its last writer, the worker, is gone.
        assert parent.stdout.read() == b""
