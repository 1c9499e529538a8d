"""Captured training steps are the steps as they are launched."""

import pytest
import torch

from tests.training.small import small_preset
from training import batches as batches_module
from training.batches import BatchConfig, make_batch
from training.evaluate import picture_tensors
from training.initialise import initial_network
from training.prefetch import MakingThreads, steps_from
from training.procedural import procedural_picture
from training.train import new_run, train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.fixture
def make(monkeypatch):
    """Batches of both schedules, on the GPU."""
    monkeypatch.setattr(batches_module, "find_preset", lambda name: small_preset())
    pictures = picture_tensors([procedural_picture(0)[:400, :400]], torch.device("cuda"))
    config = BatchConfig("nano", clips=2, side=128, units=3, seed=7)
    return lambda number: make_batch([], pictures, config, number)


def curve(make, batches, steps, folder, replay_with) -> torch.Tensor:
    """The loss of each step of a run of its own."""
    folder.mkdir()
    run = new_run(initial_network(make(0).stream, make(0).upscaled, seed=0), 1e-3)
    lines = train(run, batches, steps, 1e6, 1e-3, folder, replay_with=replay_with)
    return torch.tensor([line["total"] for line in lines])


def test_replayed_steps_give_the_curve_of_launched_ones(make, tmp_path):
    made = [make(number) for number in range(10)]
    assert len({batch.stream for batch in made}) == 2
    launched = curve(make, iter(made), len(made), tmp_path / "launched", None)
    replayed = curve(make, iter(made), len(made), tmp_path / "replayed", MakingThreads(0))
    # cuDNN adds in another order from run to run.
    assert torch.allclose(launched, replayed, rtol=1e-3)


def test_steps_are_captured_while_threads_make_batches(make, tmp_path):
    curves = []
    for threads in (MakingThreads(0), MakingThreads(3)):
        batches = steps_from(make, 0, uses=2, threads=threads, device=torch.device("cuda"))
        curves.append(curve(make, batches, 24, tmp_path / str(threads.count), threads))
    assert torch.allclose(*curves, rtol=1e-2)
