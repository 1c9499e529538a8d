import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from fractions import Fraction

import numpy as np
import psutil
import pytest

from flashvsr_trt.errors import VideoError
from flashvsr_trt.runtime.pipeline import BoundedQueue, QueueStopped, upscale_video
from flashvsr_trt.runtime.video.color import ColorTags
from flashvsr_trt.runtime.video.info import DecodedFrame, VideoInfo, VideoInput
from tests.clips import gray_level, make_clip, probe
from tests.runtime.nearest_session import NearestSession, upscale


class Recorder:
    """An output that keeps what it is given, and may fail."""

    def __init__(self, fail_at=None, error=None):
        self.frames, self.state = [], "open"
        self.fail_at, self.error = fail_at, error

    def write(self, pixels, pts, duration, beside):
        if len(self.frames) == self.fail_at:
            raise self.error
        self.frames.append((int(pixels[0, 0, 0]), pts, duration))

    def finish(self):
        self.state = "finished"

    def abort(self):
        self.state = "aborted" if self.state == "open" else self.state


def source_of(frames):
    """An input over an iterator of frames."""
    info = VideoInfo("test", 4, 6, Fraction(24), Fraction(1, 24), ColorTags(1, 1, 1, 1), frames=40)
    return VideoInput(info, iter(frames), lambda: None)


def gray_frames(count, fail_at=None, error=None):
    for index in range(count):
        if index == fail_at:
            raise error
        yield DecodedFrame(np.full((4, 6, 3), index, np.uint8), index * 3, 3)


@pytest.mark.parametrize("batch", [1, 5, 8, 25])
@pytest.mark.parametrize("count", [1, 5, 8, 20, 21, 24, 25, 26, 100])
def test_each_frame_comes_out_with_its_own_time(count, batch):
    output = Recorder()
    report = upscale_video(source_of(gray_frames(count)), NearestSession(), output, batch=batch)
    assert output.frames == [(index, index * 3, 3) for index in range(count)]
    assert (output.state, report.frames, report.truncated) == ("finished", count, None)


@pytest.mark.parametrize("frames", [1, 5, 8, 21, 22, 100])
def test_a_file_keeps_its_frames(tmp_path, frames):
    report, notices = upscale(make_clip(tmp_path / "in.mp4", frames=frames), tmp_path / "out.mp4")
    result = probe(tmp_path / "out.mp4")
    assert result.frames == report.frames == frames
    assert result.levels == pytest.approx([gray_level(index) for index in range(frames)], abs=3)
    assert result.size == (96, 128)
    assert notices == []


def test_the_report_has_the_time_of_each_stage(tmp_path):
    report, _ = upscale(make_clip(tmp_path / "in.mp4", frames=40), tmp_path / "out.mp4")
    spent = report.stage_seconds
    assert all(0 < spent[stage] <= report.seconds for stage in ("read", "upscale", "write"))
    assert spent["wait_for_read"] + spent["upscale"] + spent["wait_for_write"] <= report.seconds


def test_progress_grows_to_the_number_of_frames():
    seen = []
    upscale_video(
        source_of(gray_frames(40)), NearestSession(), Recorder(), progress=lambda *p: seen.append(p)
    )
    assert [total for _, total in seen] == [40] * len(seen)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (40, 40)


class Failing(NearestSession):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def push(self, frames):
        if len(self.inside) > 10:
            raise self.error
        return super().push(frames)


@pytest.mark.parametrize("error", [VideoError("broken"), MemoryError("no room"), KeyboardInterrupt()])
@pytest.mark.parametrize("stage", ["decode", "upscale", "encode"])
def test_an_exception_of_any_stage_stops_all_and_is_raised_as_it_is(stage, error):
    output = Recorder(fail_at=3 if stage == "encode" else None, error=error)
    frames = gray_frames(1000, fail_at=30 if stage == "decode" else None, error=error)
    session = Failing(error) if stage == "upscale" else NearestSession()
    before = threading.active_count()
    with pytest.raises(type(error)) as caught:
        upscale_video(source_of(frames), session, output)
    assert caught.value is error
    assert output.state == "aborted"
    assert threading.active_count() == before


def test_a_failure_at_the_very_end_is_raised_too():
    output = Recorder()
    output.finish = lambda: (_ for _ in ()).throw(VideoError("disk full"))
    with pytest.raises(VideoError, match="disk full"):
        upscale_video(source_of(gray_frames(5)), NearestSession(), output)
    assert output.state == "aborted"


class Greedy(NearestSession):
    def flush(self):
        return super().flush()[:-1]


class Generous(NearestSession):
    def flush(self):
        return super().flush().repeat(2, axis=0)


@pytest.mark.parametrize(
    ("session", "message"), [(Greedy(), "kept 1 frames back"), (Generous(), "gave 10 frames, with only 5")]
)
def test_a_session_that_loses_or_invents_frames_is_caught(session, message):
    output = Recorder()
    with pytest.raises(RuntimeError, match=message):
        upscale_video(source_of(gray_frames(5)), session, output)
    assert output.state == "aborted"


def test_no_stage_runs_ahead_of_a_slow_encoder():
    """Memory: what is alive between decoder and encoder does not grow with the video."""
    taken, alive = 0, []

    def frames():
        nonlocal taken
        for frame in gray_frames(250):
            taken += 1
            yield frame

    class Slow(Recorder):
        def write(self, pixels, pts, duration, beside):
            hashlib.sha256(bytes(2**21)).digest()  # work that lets the other threads run ahead if they can
            super().write(pixels, pts, duration, beside)
            alive.append(taken - len(self.frames))

    upscale_video(source_of(frames()), NearestSession(), Slow())
    # Two batches queued and one in hand at each side, the session's 25, and two chunks of at most 21.
    assert max(alive) <= 4 * 8 + 25 + 2 * 21


def test_a_long_video_needs_no_more_memory_than_a_short_one(tmp_path):
    process = psutil.Process()

    def watched(source):
        peak = 0

        def watch(done, total):
            nonlocal peak
            peak = max(peak, process.memory_info().rss)

        frame = np.zeros((540, 960, 3), np.uint8)
        frames = (DecodedFrame(frame.copy(), index, 1) for index in range(source))
        upscale_video(source_of(frames), NearestSession(), Recorder(), progress=watch)
        return peak

    watched(64)
    short = watched(64)
    # 200 more frames would be 300 MB before and 1.2 GB after upscaling.
    assert watched(264) < short + 200 * 2**20


def test_a_stopped_queue_wakes_both_sides():
    queue = BoundedQueue(1)
    queue.put(1)
    ended = []

    def put():
        try:
            queue.put(2)
        except QueueStopped:
            ended.append("put")

    writer = threading.Thread(target=put)
    writer.start()
    queue.stop()
    writer.join()
    with pytest.raises(QueueStopped):
        queue.get()
    assert ended == ["put"]


def limit_file_size(limit):
    """Runs in the child: writing past `limit` bytes fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


UPSCALE = (
    "import sys\n"
    "from tests.runtime.nearest_session import upscale\n"
    "from flashvsr_trt.errors import FlashVSRError\n"
    "try:\n"
    "    upscale(sys.argv[1], sys.argv[2], crf=1)\n"
    "except FlashVSRError as error:\n"
    "    sys.exit(f'{type(error).__name__}: {error}')\n"
)


@pytest.mark.parametrize("limit", [0, 1000, 60_000, 150_000])
@pytest.mark.parametrize("target", ["out.mp4", "out.mkv", "out"])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, target, limit):
    def noise(index, height, width):
        return np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)

    size = (280, 280) if target == "out" else (96, 96)
    clip = make_clip(tmp_path / "in.mp4", frames=30, size=size, picture=noise, audio_tracks=1)
    done = subprocess.run(
        [sys.executable, "-c", UPSCALE, str(clip), str(tmp_path / target)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: limit_file_size(limit),
    )
    assert done.returncode == 1
    assert done.stderr.startswith("VideoError: ")
    assert f"cannot be written ({os.strerror(errno.EFBIG)}): no space is left" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


INTERRUPTIBLE = """
import json
import sys
from flashvsr_trt.runtime.pipeline import upscale_video
from flashvsr_trt.runtime.request import InputOptions
from flashvsr_trt.runtime.video.input import open_input
from flashvsr_trt.runtime.video.output import open_output
from tests.runtime.nearest_session import NearestSession

try:
    with (
        open_input(sys.argv[1], InputOptions(**json.loads(sys.argv[3]))) as video,
        open_output(sys.argv[2], video, (video.info.height * 2, video.info.width * 2)) as output,
    ):
        upscale_video(video, NearestSession(), output, progress=lambda done, total: print(done, flush=True))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("source", ["endless", "pipe"])
@pytest.mark.parametrize("target", ["out.mp4", "out"])
def test_ctrl_c_ends_soon_and_leaves_nothing(tmp_path, source, target):
    # Neither ends by itself: one always has frames, at the other the decode thread sits in a blocking read.
    path = "/dev/zero" if source == "endless" else "-"
    options = json.dumps({"raw_size": [48, 64], "rate": 24})
    child = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, path, str(tmp_path / target), options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    if source == "pipe":
        child.stdin.write(bytes(48 * 64 * 3 * 60))
        child.stdin.flush()
    child.stdout.readline()
    child.send_signal(signal.SIGINT)
    # stdin stays open: its end would end the run too.
    assert child.wait(timeout=120) == 130, child.stderr.read()
    assert child.stderr.read().splitlines()[1:] == []
    assert list(tmp_path.iterdir()) == []
    for pipe in (child.stdin, child.stdout, child.stderr):
        pipe.close()
