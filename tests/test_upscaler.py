"""The public Python API: files, frames and streams of one loaded network."""

import asyncio
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import flashvsr_trt
from flashvsr_trt import Upscaler
from flashvsr_trt.errors import SessionError, UsageError
from flashvsr_trt.runtime.executors import Executors
from flashvsr_trt.runtime.frames import NumpyArrays
from tests.clips import make_clip, probe
from tests.runtime.nearest_session import NearestSession
from tests.without_torch import FORBID_TORCH

NANO = {"preset": "nano", "backend": "torch", "device": "cpu", "schedule": "low-latency"}


def frames_of(seed, count):
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), np.uint8)


class CountedSession(NearestSession):
    """A nearest session whose executor takes arrays of numpy, and which tells when it is closed."""

    executor = type("Executor", (), {"arrays": NumpyArrays()})()

    def __init__(self, log):
        super().__init__()
        self.log = log

    def push(self, frames):
        self.log.append("push")
        return super().push(frames)

    def close(self):
        self.log.append("closed")


@pytest.fixture
def log():
    return []


@pytest.fixture
def upscaler(monkeypatch, log):
    with Upscaler(**NANO) as made:
        monkeypatch.setattr(made, "session", lambda *size, **options: CountedSession(log))
        yield made


async def all_of(stream):
    return np.concatenate([frames async for frames in stream])


def test_names_of_the_package_are_found_and_others_are_not():
    assert [getattr(flashvsr_trt, name) for name in flashvsr_trt._PUBLIC]
    with pytest.raises(AttributeError, match="Upscalers"):
        _ = flashvsr_trt.Upscalers


def test_the_package_is_imported_without_what_it_does_not_need():
    code = FORBID_TORCH + "import flashvsr_trt; assert not {'numpy', 'av', 'click'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_file_is_upscaled_and_nothing_is_printed(tmp_path, capfd, caplog):
    clip = make_clip(tmp_path / "clip.mp4", frames=5, size=(64, 64))
    done = []
    with Upscaler(**NANO) as upscaler:
        report = upscaler.file(clip, tmp_path / "big.mkv", progress=lambda *at: done.append(at), crf=30)
        assert report["frames"] == probe(tmp_path / "big.mkv").frames == 5
        assert done[-1] == (5, 5)
        with pytest.raises(UsageError, match="exists"):
            upscaler.file(clip, tmp_path / "big.mkv")
        session = upscaler.session(64, 64)
        assert session.executor is upscaler.session(64, 64).executor
    assert capfd.readouterr() == ("", "")
    assert any("weights" in record.message for record in caplog.records)


def test_streams_side_by_side_are_each_as_one_alone():
    clips = [frames_of(seed, 5) for seed in range(2)]

    async def both(upscaler):
        return await asyncio.gather(*(all_of(upscaler.stream(iter(clip))) for clip in clips))

    with Upscaler(**NANO) as upscaler:
        made = asyncio.run(both(upscaler))
        alone = np.concatenate(list(upscaler.frames([clips[1][:2], clips[1][2:]])))
    assert made[0].shape == (5, 128, 128, 3)
    np.testing.assert_array_equal(made[1], alone)


def test_frames_come_singly_or_several_at_a_time(upscaler):
    clip = frames_of(0, 40)
    made = [np.concatenate(list(upscaler.frames(source))) for source in (clip, [clip], [clip[:9], clip[9:]])]
    for frames in made:
        np.testing.assert_array_equal(frames, clip.repeat(2, 1).repeat(2, 2))
    assert list(upscaler.frames([])) == []


def test_a_slow_consumer_slows_its_source(upscaler):
    given = 0

    async def source():
        nonlocal given
        for frame in frames_of(0, 60):
            given += 1
            yield frame

    async def consume():
        taken, ahead = 0, []
        async for frames in upscaler.stream(source()):
            for _ in range(50):
                await asyncio.sleep(0)
            taken += len(frames)
            ahead.append(given - taken)
        return taken, ahead

    taken, ahead = asyncio.run(consume())
    assert taken == given == 60
    # What the session keeps inside, and one frame that was awaited while it ran.
    assert max(ahead) <= 4 + 1


@pytest.mark.parametrize("how", ["closed", "cancelled", "source"])
def test_a_stream_that_ends_early_gives_its_memory_back(upscaler, log, how):
    ended = []

    async def source():
        try:
            for frame in frames_of(0, 30):
                yield frame
            if how == "source":
                raise OSError("the camera is gone")
            await asyncio.Event().wait()
        finally:
            ended.append(how)

    async def close():
        stream = upscaler.stream(source())
        assert len(await anext(stream)) == 21
        await stream.aclose()

    async def cancel():
        task = asyncio.create_task(all_of(upscaler.stream(source())))
        while log.count("push") < 30:
            await asyncio.sleep(0)
        task.cancel()
        await task

    if how == "closed":
        asyncio.run(close())
    else:
        error = asyncio.CancelledError if how == "cancelled" else OSError
        with pytest.raises(error):
            asyncio.run(cancel() if how == "cancelled" else all_of(upscaler.stream(source())))
    assert log[-1] == "closed"
    assert log.count("closed") == 1
    assert ended == [how]


def test_what_a_stream_cannot_take_is_said_and_other_streams_go_on(upscaler, log):
    async def streams():
        good, bad = upscaler.stream(iter(frames_of(0, 30))), upscaler.stream(iter([np.zeros(3)]))
        return await asyncio.gather(all_of(good), all_of(bad), return_exceptions=True)

    good, bad = asyncio.run(streams())
    assert len(good) == 30
    assert isinstance(bad, UsageError)
    assert "shape [3]" in str(bad)


def test_a_closed_upscaler_takes_no_more(log, monkeypatch):
    async def midway():
        upscaler = Upscaler(**NANO)
        monkeypatch.setattr(upscaler._executors, "session", lambda *size, **options: CountedSession(log))
        stream = upscaler.stream(frames_of(0, 60))
        await anext(stream)
        upscaler.close()
        with pytest.raises(SessionError, match="make a new one"):
            await all_of(stream)
        return upscaler

    upscaler = asyncio.run(midway())
    assert log[-1] == "closed"
    clip = upscaler.frames(frames_of(0, 1))
    for call in (lambda: upscaler.session(64, 64), lambda: upscaler.file("a.mp4"), lambda: next(clip)):
        with pytest.raises(SessionError, match="this upscaler was closed"):
            call()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vram": "8G"}, "vram '8G' is of type str; give int or None"),
        ({"weights": 7}, "weights 7 is of type int; give str or None"),
        ({"scale": "2"}, "scale '2' is of type str; give int"),
        ({"seed": 1.5}, "seed 1.5 is of type float"),
        ({"build": 1}, "build 1 is of type int; give bool"),
        ({"scale": True}, "scale True is of type bool"),
    ],
)
def test_an_option_of_another_type_is_refused(options, said):
    with pytest.raises(UsageError, match=said):
        Upscaler(**NANO | options)


def test_options_of_a_file_may_be_paths_and_numbers_of_numpy_and_are_of_their_types(tmp_path):
    with Upscaler(**NANO, weights=Path("random")) as upscaler:
        for options in ({"crf": "16"}, {"start": "0:01"}, {"encoder_options": ["preset=slow"]}):
            with pytest.raises(UsageError, match=f"{next(iter(options))} .* is of type"):
                upscaler.file("a.mp4", tmp_path / "b.mp4", **options)
        clip = make_clip(tmp_path / "a.mp4", frames=4, size=(64, 64))
        report = upscaler.file(clip, tmp_path / "b.mp4", frames=np.int64(2), crf=np.float32(20))
    assert report["frames"] == 2


def test_ranks_are_sent_to_the_command(monkeypatch):
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(UsageError, match="--gpus"):
        Upscaler()


def test_closing_lets_go_of_what_is_loaded():
    upscaler = Upscaler(**NANO)
    upscaler.session(64, 64)
    executors = upscaler._executors
    assert isinstance(executors, Executors)
    assert executors.networks
    upscaler.close()
    assert not executors.networks
    assert executors.latest is None
