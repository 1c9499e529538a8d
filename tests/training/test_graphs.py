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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_replayed_steps_give_the_curve_of_launched_ones(monkeypatch, tmp_path):
    monkeypatch.setattr(batches_module, "find_preset", lambda name: small_preset())
    device = torch.device("cuda")
    pictures = picture_tensors([procedural_picture(0)[:400, :400]], device)
    config = BatchConfig("nano", clips=2, side=128, units=3, seed=7)
    made = [make_batch([], pictures, config, number) for number in range(10)]
    assert len({batch.stream for batch in made}) == 2
    curves = []
    for replay_with in (None, MakingThreads(0)):
        run = new_run(initial_network(made[0].stream, made[0].upscaled, seed=0), 1e-3)
        folder = tmp_path / str(len(curves))
        folder.mkdir()
        lines = train(run, iter(made), len(made), 1e6, 1e-3, folder, replay_with=replay_with)
        curves.append(torch.tensor([line["total"] for line in lines]))
    # cuDNN adds in another order from run to run.
    assert torch.allclose(*curves, rtol=1e-3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_steps_are_captured_while_threads_make_batches(monkeypatch, tmp_path):
    monkeypatch.setattr(batches_module, "find_preset", lambda name: small_preset())
    device = torch.device("cuda")
    pictures = picture_tensors([procedural_picture(0)[:400, :400]], device)
    config = BatchConfig("nano", clips=2, side=128, units=3, seed=7)

    def make(number):
        return make_batch([], pictures, config, number)

    curves = []
    for threads in (MakingThreads(0), MakingThreads(3)):
        run = new_run(initial_network(make(0).stream, make(0).upscaled, seed=0), 1e-3)
        folder = tmp_path / str(threads.count)
        folder.mkdir()
        batches = steps_from(make, 0, uses=2, threads=threads, device=device)
        lines = train(run, batches, 24, 1e6, 1e-3, folder, replay_with=threads)
        curves.append(torch.tensor([line["total"] for line in lines]))
    assert torch.allclose(*curves, rtol=1e-2)
