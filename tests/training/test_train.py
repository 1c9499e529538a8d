"""A run is a function of its seed, and one that was cut goes on as if it had not been."""

import copy
from functools import cache
from itertools import count

import pytest
import torch

from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from tests.training.small import SMALL, small_preset
from training import batches as batches_module
from training.batches import BatchConfig, make_batch
from training.evaluate import evaluate, picture_tensors
from training.initialise import initial_network
from training.network import TrainableNetwork
from training.procedural import procedural_picture
from training.train import learning_rate, new_run, restore, train, write_weights

pytestmark = pytest.mark.slow

CONFIG = BatchConfig("nano", clips=1, side=128, units=3, seed=7)

STEPS = 8
"""Enough for the rate to rise and to fall, each step from what the one before left."""


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    monkeypatch.setattr(batches_module, "find_preset", lambda name: small_preset())


@cache
def pictures() -> list[torch.Tensor]:
    return picture_tensors([procedural_picture(0)[:400, :400]], torch.device("cpu"))


@cache
def batch_of(step: int):
    return make_batch([], pictures(), CONFIG, step)


@cache
def fitted_once() -> TrainableNetwork:
    return initial_network(batch_of(0).stream, batch_of(0).upscaled, seed=0)


def fitted() -> TrainableNetwork:
    return copy.deepcopy(fitted_once())


def run_for(steps: int, folder, resume: bool = False):
    run = new_run(fitted(), 1e-3)
    assert restore(run, folder) == resume
    lines = train(run, map(batch_of, count(run.step)), steps, 1e6, 1e-3, folder)
    return run, [line["total"] for line in lines]


def test_steps_from_one_seed_give_one_curve(tmp_path):
    curves = []
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        curves.append(run_for(STEPS, tmp_path / name)[1])
        # Everything is made anew from the seed: the pictures, the batches and the first network.
        for made_once in (pictures, batch_of, fitted_once):
            made_once.cache_clear()
    assert len(curves[0]) == STEPS
    assert curves[0] == curves[1]


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    run, curve = run_for(4, whole)
    start = new_run(fitted(), 1e-3)
    # The schedule is of four steps in both: the first part stops early, by its own count.
    done = []

    def stop_after_two(step):
        if step == 2:
            raise KeyboardInterrupt
        done.append(step)
        return batch_of(step)

    with pytest.raises(KeyboardInterrupt):
        train(start, map(stop_after_two, count()), 4, 1e6, 1e-3, cut)
    resumed, rest = run_for(4, cut, resume=True)
    assert done == [0, 1]
    assert rest == curve[2:]
    for one, other in zip(run.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_first_network_gives_back_about_its_condition():
    batch = batch_of(0)
    network = new_run(fitted(), 1e-3).network
    with torch.no_grad():
        made = network(batch.upscaled, batch.noise, batch.stream)
    condition = batch.upscaled[:, : made.shape[1]]
    error = (made - condition).square().mean()
    assert error < 0.2 * condition.var()


def test_every_parameter_that_the_frames_depend_on_learns():
    batch = batch_of(0)
    run = new_run(fitted(), 1e-3)
    for block in run.network.decoder.modules():
        if hasattr(block, "conv") and isinstance(block.conv, torch.nn.Sequential):
            torch.nn.init.normal_(block.conv[4].weight, std=0.01)
    run.network(batch.upscaled, batch.noise, batch.stream).square().mean().backward()
    still = [name for name, value in run.network.named_parameters() if value.grad is None]
    assert still == []


def test_the_rate_rises_then_falls():
    rates = [learning_rate(1.0, step, step / 1000) for step in range(1001)]
    assert rates[0] < rates[29] > rates[500] > rates[1000] > 0


def test_weights_load_where_the_package_loads_weights(tmp_path, monkeypatch):
    import training.train as train_module

    monkeypatch.setattr(train_module, "find_preset", lambda name: small_preset())
    network = new_run(fitted(), 1e-3).network
    path = tmp_path / "weights.safetensors"
    write_weights(network, "nano", "a test", path)
    weights = load_weights(resolve_weights(str(path), SMALL), SMALL, torch.float32)
    stored = weights.parts["decoder"]["decoder.1.weight"].float()
    assert torch.allclose(stored, network.decoder.decoder[1].weight, atol=1e-3)


def test_an_evaluation_has_a_row_for_each_damage_and_schedule():
    network = new_run(fitted(), 1e-3).network
    rows = evaluate(network, pictures(), "nano", side=128, units=3)
    assert {(row["input"], row["schedule"]) for row in rows} == {
        (damage, schedule) for damage in ("clean", "degraded") for schedule in ("official", "low-latency")
    }
    assert all(row["gain"] == row["ours"] - row["bicubic"] for row in rows)
