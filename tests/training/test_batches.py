"""What a step sees: a function of its number, however many threads make it."""

from itertools import islice

import pytest
import torch

from tests.training.small import small_preset
from training import batches as batches_module
from training.batches import Batch, BatchConfig, make_batch, turned
from training.evaluate import picture_tensors
from training.prefetch import MakingThreads, steps_from
from training.procedural import procedural_picture

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setattr(batches_module, "find_preset", lambda name: small_preset())


def make(number: int, **sizes) -> Batch:
    pictures = picture_tensors([procedural_picture(0)[:400, :400]], CPU)
    settings = {"clips": 1, "side": 128, "units": 3, "seed": 7} | sizes
    return make_batch([], pictures, BatchConfig("nano", **settings), number)


def assert_same(one: Batch, other: Batch) -> None:
    assert one.stream == other.stream
    for name in ("upscaled", "target", "noise"):
        assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("first", [0, 3])
def test_threads_give_the_batches_of_one_by_one(first):
    alone, ahead = (
        list(islice(steps_from(make, first, uses=2, threads=MakingThreads(threads), device=CPU), 4))
        for threads in (0, 3)
    )
    for one, other in zip(alone, ahead, strict=True):
        assert_same(one, other)


def test_a_run_that_goes_on_sees_what_a_whole_one_does():
    whole = list(islice(steps_from(make, 0, uses=2, threads=MakingThreads(0), device=CPU), 5))
    rest = list(islice(steps_from(make, 3, uses=2, threads=MakingThreads(0), device=CPU), 2))
    for one, other in zip(whole[3:], rest, strict=True):
        assert_same(one, other)


def test_an_error_in_a_thread_reaches_who_trains():
    def broken(number: int) -> Batch:
        raise ValueError("no such picture")

    with pytest.raises(ValueError, match="no such picture"):
        next(steps_from(broken, 0, uses=1, threads=MakingThreads(2), device=CPU))


def test_a_turned_batch_is_the_same_clips_in_each_of_eight_positions():
    batch = make(0)
    seen = [turned(batch, use) for use in range(8)]
    for use, other in enumerate(seen):
        assert len({one.target.numpy().tobytes() for one in seen}) == 8
        # What belongs together was turned together.
        wanted = (batch.upscaled[:, : batch.target.shape[1]] - batch.target).square().mean()
        got = (other.upscaled[:, : other.target.shape[1]] - other.target).square().mean()
        assert torch.isclose(wanted, got), use


def test_large_clips_are_a_quarter_as_many():
    small, large = (make(0, clips=4, large_share=share) for share in (0.0, 1.0))
    assert small.upscaled.shape[0] == 4
    assert large.upscaled.shape[0] == 1
    assert large.upscaled.shape[-1] == 2 * small.upscaled.shape[-1]
