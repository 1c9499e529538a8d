"""What `run` shows: whole screens of a terminal, plain and JSON lines, a log file, nothing when quiet."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from flashvsr_trt.cli import display
from flashvsr_trt.cli.display import LOG, LOG_HEADER, LogFile, Pace, clock, displayed, say, words
from flashvsr_trt.notices import phase
from tests.cli.command import ROOT, assert_refused, call, names
from tests.clips import make_clip

NANO = ("--preset", "nano", "--weights", "random", "--backend", "torch", "--schedule", "low-latency")


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4", frames=13, size=(64, 64))


WIDTHS = (80, 110)
LAST = f"END {WIDTHS[-1]}"
RUN_AT_EACH_WIDTH = """
import subprocess, sys
from flashvsr_trt.cli.main import main
tmux, arguments = sys.argv[1].split(), sys.argv[2:]
for width in ({widths}):
    subprocess.run([*tmux, "resize-window", "-x", str(width), "-y", "20"], check=True)
    main(arguments)
    print("END", width, flush=True)
subprocess.run([*tmux, "wait-for", "-S", "done"], check=True)
sys.stdin.read()
""".format(widths=", ".join(map(str, WIDTHS)))

BAR = re.compile(r"\S (first frames|upscaling|loading) [━╸╺ ]+( [\d,]+ of [\d,]+ frames(, .+)?)?")
SAID = "random weights (seed 0): they show that the toolchain runs, and restore nothing"
SUMMARY = r"clip_2x\.mp4: 13 frames in \S+ s \(\S+ FPS, \S+x real time\), 64x64 to 128x128, \d+ kB"
ALL_SAID = re.compile("".join(rf"({re.escape(SAID)} )?({SUMMARY} )?(END {width} )?" for width in WIDTHS))
"""The words of a screen, each with a space behind it."""


def screens(folder: Path, command: list[str]) -> list[str]:
    """What tmux shows of RUN_AT_EACH_WIDTH at its every look, the last one with its last END."""
    tmux = ("tmux", "-L", f"flashvsr-{os.getpid()}", "-f", "/dev/null")
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
    script = shlex.join([sys.executable, "-c", RUN_AT_EACH_WIDTH, shlex.join(tmux), *command])
    begin = ["new-session", "-d", "-x", "80", "-y", "20", script]
    subprocess.run([*tmux, *begin], check=True, env=environment, cwd=folder, timeout=120)
    seen = []
    try:
        # The screen says the end: a signal can wake a client of tmux that its timeout ends first.
        while not seen or LAST not in seen[-1]:
            with suppress(subprocess.TimeoutExpired):
                subprocess.run([*tmux, "wait-for", "done"], timeout=0.1, check=True)
            capture = [*tmux, "capture-pane", "-p"]
            shown = subprocess.run(capture, check=True, capture_output=True, text=True, timeout=120)
            seen.append(shown.stdout)
            assert len(seen) < 1500, seen[-1]
    finally:
        subprocess.run([*tmux, "kill-server"], check=False, timeout=120)
    return seen


@pytest.mark.skipif(not shutil.which("tmux"), reason="needs tmux")
def test_no_screen_at_80_or_110_columns_holds_a_torn_line(tmp_path, clip):
    seen = screens(tmp_path, ["run", clip.name, *NANO, "-y"])
    assert any("first frames" in screen for screen in seen)
    for screen in seen:
        lines = [line.rstrip() for line in screen.splitlines() if line.strip()]
        bars = [line for line in lines if re.search("━|╸|╺", line)]
        assert [bar for bar in bars if not BAR.fullmatch(bar)] == [], screen
        assert len(bars) <= 2, screen
        said = "".join(f"{line} " for line in lines if line not in bars)
        assert ALL_SAID.fullmatch(said), screen
    # The bars are gone at the end.
    assert not re.search("━|╸|╺", seen[-1])


def test_plain_lines_say_frames_rate_and_what_is_left():
    pace = Pace(0.0)
    assert pace.at(5.0, 0, 48) == (None, None)
    assert pace.at(10.0, 8, 48) == (None, None)
    # What came before the first frames does not count.
    assert pace.at(12.0, 16, 48) == (4.0, 8.0)
    assert words(16, 48, "frames", 4.0, 8.0) == "16 of 48 frames, 4.00 FPS, 0:08 left"
    assert words(16, None, "frames", 4.0, None) == "16 frames, 4.00 FPS"
    assert clock(7509) == "2:05:09"


def test_the_first_rate_is_a_line_of_its_own_and_others_come_by_time(capfd, monkeypatch):
    monkeypatch.setattr(display, "LINE_SECONDS", 3600)
    with displayed(), phase("upscaling", "frames") as report:
        for done in (0, 5, 21, 37, 48):
            report(done, 48)
    lines = capfd.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in lines] == [f"{n} of 48 frames" for n in (0, 21, 48)]
    assert "FPS" in lines[1]


def test_json_lines_hold_messages_progress_and_the_summary(clip, capfd):
    outcome = call(capfd, "run", clip, *NANO, "--progress", "json")
    assert outcome.code == 0, outcome.err
    events = [json.loads(line) for line in outcome.err.splitlines()]
    assert {"message", "phase", "progress", "summary"} <= {event["event"] for event in events}
    assert events[-1]["frames"] == 13
    last = [event for event in events if event["event"] == "progress"][-1]
    assert (last["phase"], last["done"], last["total"]) == ("upscaling", 13, 13)


def test_errors_are_json_lines_too(tmp_path, capfd):
    outcome = call(capfd, "run", tmp_path / "none.mp4", *NANO, "--progress", "json")
    assert outcome.code == 1
    error = json.loads(outcome.err.splitlines()[-1])
    assert (error["event"], error["level"]) == ("message", "error")
    assert "no such file" in error["text"]


def test_quiet_says_nothing_and_the_log_file_all(tmp_path, clip, capfd):
    log = tmp_path / "run.log"
    outcome = call(capfd, "run", clip, *NANO, "-q", "--log-file", log)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    lines = log.read_text().splitlines()
    assert lines[0] == LOG_HEADER
    assert any("random weights (seed 0)" in line for line in lines)
    assert any("clip_2x.mp4: 13 frames" in line for line in lines)
    # A second run goes on in the same file; an error is there with where it came from.
    assert call(capfd, "run", clip, *NANO, "-q", "--log-file", log).code == 2
    assert "Traceback" in log.read_text()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("style", ["plain", "json", "bar"])
def test_messages_that_cannot_be_written_end_no_run(tmp_path, clip, capfd, monkeypatch, style):
    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        monkeypatch.setenv("FORCE_COLOR", "1" if style == "bar" else "")  # rich then takes it for a terminal
        outcome = call(capfd, "run", clip, *NANO, "--progress", style, "--json", "-")
        assert (outcome.code, json.loads(outcome.out)["frames"]) == (0, 13)
        assert call(capfd, "run", tmp_path / "none.mp4", *NANO, "--progress", style).code == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_log_file_that_cannot_be_written_any_more_is_said_once(tmp_path, capfd):
    with displayed():
        log = LogFile(tmp_path / "run.log")
        LOG.addHandler(log)
        log.setStream(open("/dev/full", "w")).close()  # noqa: SIM115 - logging closes it
        say("one")
        say("two")
        with suppress(OSError):
            log.close()
    lines = capfd.readouterr().err.splitlines()
    assert [line for line in lines if not line.startswith("--log-file")] == ["one", "two"]
    assert len(lines) == 3


def test_a_log_file_that_is_something_else_is_refused(tmp_path, clip, capfd):
    before = clip.read_bytes()
    assert_refused(call(capfd, "run", clip, *NANO, "--log-file", clip), 2, "is no log")
    assert clip.read_bytes() == before
    assert names(tmp_path) == {"clip.mp4"}
