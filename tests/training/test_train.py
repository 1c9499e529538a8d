"""A run is a function of its seed, and one that was cut goes on as if it had not been."""

from dataclasses import replace
from functools import cache

import pytest
import torch

from flashvsr_trt.model.weights import load_weights, resolve_weights
from flashvsr_trt.presets import DecoderConfig, DiTConfig, NetworkConfig, ProjectorConfig, find_preset
from training import batches as batches_module
from training.batches import BatchConfig, make_batch
from training.evaluate import evaluate, picture_tensors
from training.network import upscale_frames
from training.procedural import procedural_picture
from training.train import learning_rate, new_run, restore, save, train, write_weights

SMALL = NetworkConfig(
    dit=DiTConfig(dim=32, heads=1, ffn_dim=64, layers=2, text_dim=16, text_tokens=4, freq_dim=16),
    projector=ProjectorConfig(hidden=(8, 16)),
    decoder=DecoderConfig(channels=(48, 16, 12, 8)),
)
CONFIG = BatchConfig("nano", clips=1, side=128, units=3, seed=7)


@pytest.fixture(autouse=True)
def small_network(monkeypatch):
    """The curve's sameness does not depend on widths."""
    small = replace(find_preset("nano"), network=SMALL)
    monkeypatch.setattr(batches_module, "find_preset", lambda name: small)


@cache
def pictures() -> list[torch.Tensor]:
    return picture_tensors([procedural_picture(0)[:400, :400]], torch.device("cpu"))


def batch_of(step: int):
    return make_batch([], pictures(), CONFIG, step)


def run_for(steps: int, folder, resume: bool = False):
    run = new_run(batch_of(0), 0, 1e-3)
    assert restore(run, folder) == resume
    lines = train(run, batch_of, steps, 1e6, 1e-3, folder)
    return run, [line["total"] for line in lines]


def test_twenty_steps_from_one_seed_give_one_curve(tmp_path):
    curves = []
    for name in ("first", "again"):
        (tmp_path / name).mkdir()
        curves.append(run_for(20, tmp_path / name)[1])
    assert len(curves[0]) == 20
    assert curves[0] == curves[1]


def test_a_run_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    run, curve = run_for(6, whole)
    start = new_run(batch_of(0), 0, 1e-3)
    # The schedule is of six steps in both: the first part stops early, by its own count.
    done = []

    def stop_after_three(step):
        if step == 3:
            raise KeyboardInterrupt
        done.append(step)
        return batch_of(step)

    with pytest.raises(KeyboardInterrupt):
        train(start, stop_after_three, 6, 1e6, 1e-3, cut)
    save(start, cut)
    resumed, rest = run_for(6, cut, resume=True)
    assert done == [0, 1, 2]
    assert rest == curve[3:]
    for one, other in zip(run.average.parameters(), resumed.average.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_first_network_gives_back_about_its_condition():
    batch = batch_of(0)
    network = new_run(batch, 0, 1e-3).network
    with torch.no_grad():
        made = network(batch.frames, batch.noise, batch.stream)
    condition = upscale_frames(batch.frames, batch.stream)[:, : made.shape[1]]
    error = (made - condition).square().mean()
    assert error < 0.2 * condition.var()


def test_every_parameter_that_the_frames_depend_on_learns():
    batch = batch_of(0)
    run = new_run(batch, 0, 1e-3)
    for block in run.network.decoder.modules():
        if hasattr(block, "conv") and isinstance(block.conv, torch.nn.Sequential):
            torch.nn.init.normal_(block.conv[4].weight, std=0.01)
    run.network(batch.frames, batch.noise, batch.stream).square().mean().backward()
    still = [name for name, value in run.network.named_parameters() if value.grad is None]
    assert still == []


def test_the_rate_rises_then_falls():
    rates = [learning_rate(1.0, step, step / 1000) for step in range(1001)]
    assert rates[0] < rates[29] > rates[500] > rates[1000] > 0


def test_weights_load_where_the_package_loads_weights(tmp_path, monkeypatch):
    import training.train as train_module

    small = replace(find_preset("nano"), network=SMALL)
    monkeypatch.setattr(train_module, "find_preset", lambda name: small)
    network = new_run(batch_of(0), 0, 1e-3).network
    path = tmp_path / "weights.safetensors"
    write_weights(network, "nano", "a test", path)
    weights = load_weights(resolve_weights(str(path), SMALL), SMALL, torch.float32)
    assert torch.allclose(weights.decoder["decoder.1.weight"], network.decoder.decoder[1].weight, atol=1e-3)


def test_an_evaluation_has_a_row_for_each_damage_and_schedule():
    network = new_run(batch_of(0), 0, 1e-3).network
    rows = evaluate(network, pictures(), "nano", side=128, units=3)
    assert {(row["input"], row["schedule"]) for row in rows} == {
        (damage, schedule) for damage in ("clean", "degraded") for schedule in ("official", "low-latency")
    }
    assert all(row["gain"] == row["ours"] - row["bicubic"] for row in rows)
