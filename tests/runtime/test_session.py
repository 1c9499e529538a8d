"""Streaming: what comes out does not depend on how frames go in."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import SessionError, UsageError
from flashvsr_trt.runtime.noise import NoiseAhead, latent_noise
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from tests.golden import golden_preset, load_case
from tests.golden_clips import network_of

SCHEDULES = ["official", "low-latency"]
HEIGHT, WIDTH = 64, 56
"""One window, of which a part is padded."""


@cache
def executor(
    schedule: str, sparse_ratio: float | None = 2.0, fit: str = "pad", width: int = WIDTH
) -> TorchExecutor:
    preset = golden_preset(AttentionConfig(sparse_ratio))
    stream = StreamConfig(preset, Geometry(HEIGHT, width, 2, fit), find_schedule(schedule))
    return TorchExecutor(network_of(load_case("e2e_official")), stream)


def clip(frames: int, width: int = WIDTH) -> np.ndarray:
    generator = np.random.default_rng(7)
    picture = generator.integers(0, 256, (HEIGHT, width + 64, 3), dtype=np.uint8)
    return np.stack([picture[:, i : i + width] for i in range(frames)])


def stream_through(session: Session, frames: np.ndarray, push: int) -> np.ndarray:
    made = [session.push(frames[i : i + push]) for i in range(0, len(frames), push)]
    return np.concatenate([*made, session.flush()])


@cache
def expected(schedule: str, frames: int) -> np.ndarray:
    return stream_through(Session(executor(schedule)), clip(frames), push=8)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("chunk_size", [8, 16])
@pytest.mark.parametrize("push", [1, 3, 8, 50])
def test_frames_do_not_depend_on_chunk_size_or_pushes(schedule, chunk_size, push):
    session = Session(executor(schedule), chunk_size=chunk_size)
    np.testing.assert_array_equal(stream_through(session, clip(53), push), expected(schedule, 53))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("frames", [1, 2, 5, 8, 21, 22, 25, 29, 30])
def test_as_many_frames_come_out_as_went_in(schedule, frames):
    made = stream_through(Session(executor(schedule)), clip(frames), push=frames)
    assert made.shape == (frames, HEIGHT * 2, WIDTH * 2, 3)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_frames_far_from_the_end_do_not_depend_on_what_follows(schedule):
    np.testing.assert_array_equal(expected(schedule, 53)[:21], expected(schedule, 29)[:21])


@pytest.mark.parametrize(
    ("schedule", "chunk_size", "first", "steady"),
    [("official", 8, 25, 8), ("official", 16, 25, 16), ("low-latency", 8, 5, 8), ("low-latency", 16, 13, 16)],
)
def test_first_and_steady_calls_take_the_schedules_frames(schedule, chunk_size, first, steady):
    session = Session(executor(schedule), chunk_size=chunk_size)
    made_at = [len(session.push(frame[None])) for frame in clip(first + steady)]
    lookahead = find_schedule(schedule).lookahead
    assert [at + 1 for at, made in enumerate(made_at) if made] == [first, first + steady]
    assert made_at[first - 1] == first - lookahead
    assert made_at[-1] == steady


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_clip_that_starts_at_frame_100000_gives_the_frames_of_one_that_starts_at_0(schedule):
    first_latent = 100_000 // 4
    session = Session(executor(schedule), position=lambda latent: latent + first_latent)
    far = stream_through(session, clip(53), push=8).astype(np.int16)
    near = expected(schedule, 53).astype(np.int16)
    assert np.abs(far - near).max() <= 1
    assert (far != near).mean() < 1e-2


def test_sessions_of_one_executor_do_not_disturb_each_other():
    one, other = Session(executor("official")), Session(executor("official"))
    frames = clip(53)
    made = []
    for start in range(0, 53, 8):
        made.append(one.push(frames[start : start + 8]))
        other.push(frames[::-1][start : start + 8])
    np.testing.assert_array_equal(np.concatenate([*made, one.flush()]), expected("official", 53))


def test_pushed_frames_may_be_overwritten_by_the_caller():
    session = Session(executor("official"))
    frames = clip(53)
    made = []
    for start in range(0, 53, 8):
        part = frames[start : start + 8]
        made.append(session.push(part))
        part[:] = 0
    np.testing.assert_array_equal(np.concatenate([*made, session.flush()]), expected("official", 53))


def test_seeds_give_different_frames_and_the_same_seed_the_same():
    frames = clip(25)
    zero, one, again = (stream_through(Session(executor("official"), seed=s), frames, 25) for s in (0, 1, 0))
    np.testing.assert_array_equal(zero, again)
    assert (zero != one).any()


def test_an_empty_clip_gives_no_frames():
    session = Session(executor("official"))
    assert session.push(clip(1)[:0]).shape == (0, HEIGHT * 2, WIDTH * 2, 3)
    assert len(session.flush()) == 0


def test_dense_attention_streams_like_sparse():
    made = stream_through(Session(executor("official", sparse_ratio=None)), clip(37), push=8)
    assert made.shape[0] == 37


def test_centre_crop_gives_frames_of_the_target_size():
    made = stream_through(Session(executor("official", fit="crop", width=96)), clip(5, width=96), push=5)
    assert made.shape == (5, 128, 128, 3)


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((1, 10, 10, 3), np.uint8), r"\[1, 10, 10, 3\]"),
        (np.zeros((1, HEIGHT, WIDTH, 3), np.float32), "float32"),
        (np.zeros((HEIGHT, WIDTH, 3), np.uint8), "do not fit"),
    ],
)
def test_frames_of_another_kind_are_refused(frames, message):
    with pytest.raises(UsageError, match=message):
        Session(executor("official")).push(frames)


def test_a_flushed_session_takes_no_more_frames():
    session = Session(executor("official"))
    session.flush()
    with pytest.raises(UsageError, match="flushed"):
        session.push(clip(1))


@pytest.mark.parametrize("arguments", [{"chunk_size": 12}, {"seed": -1}])
def test_options_out_of_range_are_refused(arguments):
    (value,) = arguments.values()
    with pytest.raises(UsageError, match=str(value)):
        Session(executor("official"), **arguments)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**63 - 1), latent=st.integers(0, 2**40))
def test_noise_is_standard_normal_and_a_function_of_seed_and_frame(seed, latent):
    noise = latent_noise(seed, latent, (32, 32))
    assert noise.shape == (16, 32, 32)
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.05
    assert abs(noise.std() - 1) < 0.05
    np.testing.assert_array_equal(noise, latent_noise(seed, latent, (32, 32)))
    assert (noise != latent_noise(seed, latent + 1, (32, 32))).any()


class BreakingExecutor:
    """Hands on to a real executor until a stage is told to raise."""

    def __init__(self, executor):
        self.executor, self.stream, self.error = executor, executor.stream, None

    def __getattr__(self, name):
        return getattr(self.executor, name)

    def dit(self, *arguments):
        if self.error:
            raise self.error
        return self.executor.dit(*arguments)


@pytest.mark.parametrize("error", [RuntimeError("no memory"), KeyboardInterrupt(), SystemExit(1)], ids=repr)
@pytest.mark.parametrize("end", ["push", "flush"])
def test_a_session_that_failed_stays_failed_until_it_is_reset(error, end):
    breaking = BreakingExecutor(executor("official"))
    session = Session(breaking)
    session.push(clip(24))
    breaking.error = error
    with pytest.raises(type(error)):
        session.push(clip(25)[24:]) if end == "push" else session.flush()
    breaking.error = None
    for call in (lambda: session.push(clip(1)), session.flush):
        with pytest.raises(SessionError, match="failed before"):
            call()
    session.reset()
    np.testing.assert_array_equal(stream_through(session, clip(53), 8), expected("official", 53))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("after", ["flush", "push", "nothing"])
def test_a_reset_session_makes_the_next_clip_as_a_new_one_would(schedule, after):
    session = Session(executor(schedule))
    if after != "nothing":
        session.push(clip(33)[::-1])
    if after == "flush":
        session.flush()
    state = session.state
    session.reset()
    assert session.state is state
    np.testing.assert_array_equal(stream_through(session, clip(53), 8), expected(schedule, 53))


def test_frames_of_another_kind_do_not_end_a_session():
    session = Session(executor("official"))
    with pytest.raises(UsageError):
        session.push(np.zeros((1, 1, 1, 3), np.uint8))
    np.testing.assert_array_equal(stream_through(session, clip(53), 8), expected("official", 53))


def test_a_session_gives_its_memory_back_at_the_end_of_its_block():
    with Session(executor("official")) as session:
        session.push(clip(25))
    assert session.state is None
    session.close()
    for call in (lambda: session.push(clip(1)), session.flush, session.reset):
        with pytest.raises(SessionError, match="closed"):
            call()


def test_noise_is_that_of_its_frames_whatever_was_drawn_ahead():
    ahead = NoiseAhead(lambda latent: np.full((16, 1, 1), latent, np.float32))
    for latents in (range(6), range(6, 8), range(8, 10), range(100, 102), range(0, 2)):
        np.testing.assert_array_equal(ahead.step(latents)[:, 0, 0, 0], latents)


def test_what_a_draw_ahead_raises_is_raised_by_the_step_that_needs_it():
    ahead = NoiseAhead({0: np.zeros(1), 1: np.zeros(1)}.__getitem__)
    ahead.step(range(2))
    with pytest.raises(KeyError, match="2"):
        ahead.step(range(2, 4))
