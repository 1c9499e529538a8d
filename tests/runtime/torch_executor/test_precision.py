"""`--precision fp8` on the whole way: frames near those of float32, layer for layer as the table says."""

import json
import logging
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from bench.steady_stages import load_random
from flashvsr_trt.cli.calibrate import calibrate
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.model.fp8_linear import Fp8Linear
from flashvsr_trt.model.fused_projector import CONVOLUTIONS, FusedCausalConv
from flashvsr_trt.model.network import build_network, fp8_names
from flashvsr_trt.model.running_dit import ATTENTION, PRODUCTS, product_names
from flashvsr_trt.model.weights.load import RandomSeed, load_weights
from flashvsr_trt.parity.calibrate import Clip, Measured, product_errors
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.request import ExecutorRequest, TorchOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch import precision
from flashvsr_trt.runtime.torch.precision import (
    Calibration,
    check_fp8,
    fp8_lines,
    fp8_products,
    read_calibration,
)
from tests.clips import make_clip

CHUNKS = 4
LAYERS = 4
NANO = find_preset("nano").network
STREAM = StreamConfig(find_preset("nano"), Geometry(64, 64, 2), find_schedule("official"))


def executor(options: TorchOptions, weights: str | None = None):
    request = ExecutorRequest(STREAM, weights=weights, device="cpu", torch=options)
    return open_executor("torch", request, lambda line: None)


def moving_picture(index: int) -> np.ndarray:
    y, x = np.mgrid[0:64, 0:64]
    waves = [np.sin((x + 2 * index) / 9 + colour) * np.cos(y / (7 + colour)) for colour in range(3)]
    return (127 + 90 * np.stack(waves, axis=-1)).astype(np.uint8)


@cache
def frames(options: TorchOptions, weights: str | None) -> tuple[np.ndarray, dict[str, int]]:
    """Of a clip of moving pictures, and what ran."""
    running = executor(options, weights)
    session = Session(running)
    made = [session.push(np.stack([moving_picture(t) for t in range(8 * CHUNKS)])).copy(), session.flush()]
    return np.concatenate(made), running.describe()["kernel_calls"]


@pytest.mark.parametrize(
    ("weights", "asked"), [(None, "fp8"), (None, "fp8-attention"), ("random:0", "fp8-attention")]
)
def test_every_chunk_is_near_float32_and_does_not_drift(weights, asked):
    wanted, _ = frames(TorchOptions(), weights)
    got, calls = frames(TorchOptions(precision=asked), weights)
    chunks = [psnr(*pair) for pair in zip(np.split(wanted, CHUNKS), np.split(got, CHUNKS), strict=True)]
    assert min(chunks) >= 40
    # nano's frames are within a few bytes of each other: above 60 dB each is a large part of a decibel.
    assert np.polyfit(range(CHUNKS), np.minimum(chunks, 60), 1)[0] > -0.5
    # Seven products a block and step, one of them with GELU: q and k are one, v goes to where it is kept.
    assert calls["fp8_product/reference"] == 6 * calls["select_blocks/reference"]
    assert calls["fp8_gelu_product/reference"] == calls["select_blocks/reference"]
    assert calls["fp8_convolution/reference"] == calls["stack_frames/reference"] > 0
    ran = "block_sparse_attention_fp8" if asked == "fp8-attention" else "block_sparse_attention"
    attended = {name: count for name, count in calls.items() if "attention" in name}
    assert attended == {f"{ran}/reference": calls["select_blocks/reference"]}


def calibration(kept=(), without=()) -> Calibration:
    """A table of nano's products."""
    errors = {name: 0.5 for name in fp8_names(LAYERS) if name not in without}
    return Calibration("nano", "0" * 64, ("clip.mp4",), 41.5, errors, tuple(kept))


def test_what_a_calibration_keeps_is_not_in_fp8(tmp_path):
    kept = [name for name in product_names(LAYERS) if not name.endswith("ffn.2")]
    table = tmp_path / "table.json"
    table.write_text(calibration(kept=kept).text())
    running = executor(TorchOptions(precision="fp8", calibration=str(table)))
    found = [name for name, layer in running.dit_stage.dit.named_modules() if "Fp8" in type(layer).__name__]
    assert found == [f"blocks.{number}.ffn.2" for number in range(LAYERS)]


def test_products_are_the_layers_of_a_block():
    running = executor(TorchOptions(precision="fp8"))
    found = [name for name, layer in running.dit_stage.dit.named_modules() if "Fp8" in type(layer).__name__]
    joined = {name.replace("attn.qkv", "attn.v") for name in product_names(LAYERS)} - {ATTENTION}
    assert set(found) == joined | {f"blocks.{number}.self_attn.qk" for number in range(LAYERS)}
    assert len(product_names(LAYERS)) == 1 + LAYERS * len(PRODUCTS)


@pytest.mark.parametrize(
    ("change", "ring"),
    [
        ({}, torch.float8_e4m3fn),
        ({"precision": "fp8"}, torch.float32),
        ({"precision": "fp8", "kv_cache": "fp8"}, torch.float8_e4m3fn),
    ],
)
def test_the_ring_is_in_e4m3(change, ring):
    running = executor(replace(TorchOptions(precision="fp8-attention"), **change))
    layer = next(iter(running.new_state().ring))
    assert layer.keys.dtype == layer.values.dtype == ring
    assert layer.key_means.dtype == torch.float32


def test_every_slot_has_the_mean_of_the_first_step(monkeypatch):
    running = executor(TorchOptions(precision="fp8-attention"))
    state = running.new_state()
    monkeypatch.setattr(running, "new_state", lambda: state)
    session = Session(running)
    for first in range(0, 56, 8):
        session.push(np.stack([moving_picture(first + t) for t in range(8)]))
        means = torch.stack([layer.value_means for layer in state.ring])
        if first == 24:
            wanted = means[:, :1].clone()
    assert wanted.abs().sum(dim=(1, 2, 3)).gt(0).all()
    assert means.equal(wanted.expand_as(means))


@pytest.mark.parametrize(
    ("sparse_ratio", "ranks", "kv_cache", "message"),
    [
        (None, 1, "auto", "use --precision fp8"),
        (2.0, 2, "auto", "2 ranks"),
        (2.0, 1, "fp8", "leave out --kv-cache"),
    ],
)
def test_fp8_attention_is_refused_where_there_is_none(sparse_ratio, ranks, kv_cache, message):
    attention = replace(STREAM.preset.attention, sparse_ratio=sparse_ratio)
    stream = replace(STREAM, preset=replace(STREAM.preset, attention=attention))
    options = TorchOptions(precision="fp8-attention", kv_cache=kv_cache)
    with pytest.raises(UsageError, match=message):
        check_fp8(options, stream, ranks)


def test_an_fp8_ring_is_refused_to_ranks():
    with pytest.raises(UsageError, match="for one GPU"):
        check_fp8(TorchOptions(kv_cache="fp8"), STREAM, 2)


def test_a_table_of_other_weights_is_told(tmp_path):
    table, said = tmp_path / "table.json", []
    table.write_text(calibration().text())
    options = TorchOptions(precision="fp8", calibration=str(table))
    open_executor("torch", ExecutorRequest(STREAM, device="cpu", torch=options), said.append)
    assert [line for line in said if "was made with other weights" in line]
    assert not [line for line in said if "no measure" in line]


def test_what_a_table_has_no_measure_of_stays_out_of_fp8_and_is_told(tmp_path):
    table, cpu = tmp_path / "table.json", torch.device("cpu")
    table.write_text(calibration(without=[ATTENTION, *CONVOLUTIONS]).text())
    for asked, left in (("fp8", CONVOLUTIONS), ("fp8-attention", (ATTENTION, *CONVOLUTIONS))):
        options = TorchOptions(precision=asked, calibration=str(table))
        chosen = fp8_products(options, cpu, torch.float32, NANO)
        assert {name for name in fp8_names(LAYERS) if not chosen(name)} == {ATTENTION, *CONVOLUTIONS}
        told = f"{table} has no measure of these, which stay out of FP8: {', '.join(sorted(left))}"
        assert fp8_lines(options, NANO, cpu, "0" * 64) == [told]


def test_a_calibration_is_read_as_written(tmp_path):
    wanted = calibration(kept=["blocks.0.ffn.2"])
    table = tmp_path / "table.json"
    table.write_text(wanted.text())
    assert read_calibration(table, LAYERS) == wanted
    with pytest.raises(UsageError, match=r"another network: this one has no blocks\.0\.cross_attn\.o"):
        read_calibration(table, 0)
    with pytest.raises(UsageError, match=rf"another network: it has no blocks\.{LAYERS}\.cross_attn\.o"):
        read_calibration(table, LAYERS + 1)
    content = json.loads(table.read_text()) | {"psnr": 60.0}
    table.write_text(json.dumps(content))
    with pytest.raises(UsageError, match="is damaged"):
        read_calibration(table, LAYERS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (TorchOptions(calibration="table.json"), UsageError, "give both"),
        (TorchOptions(precision="fp8", calibration="none/table.json"), UsageError, "has no table.json"),
    ],
)
def test_what_cannot_be_had_is_refused(options, error, message):
    with pytest.raises(error, match=message):
        executor(options)


def test_a_gpu_without_fp8_is_refused(monkeypatch):
    device, options = torch.device("cuda"), TorchOptions(precision="fp8")
    monkeypatch.setattr(precision, "architecture_of", lambda device: "sm_86")
    with pytest.raises(DeviceError, match="sm_86 and FP8 needs sm_89"):
        fp8_products(options, device, torch.bfloat16, NANO)
    with pytest.raises(UsageError, match="leave out --dtype"):
        fp8_products(options, device, torch.float16, NANO)
    assert fp8_products(replace(options, precision="dtype"), device, torch.float16, NANO) is None


@pytest.mark.parametrize(
    ("architecture", "network", "convolves"),
    [
        ("sm_90", find_preset("sparse-2.0").network, True),
        ("sm_89", find_preset("sparse-2.0").network, False),
        ("sm_120", find_preset("sparse-2.0").network, False),
        ("sm_90", NANO, False),
    ],
)
def test_convolutions_in_fp8_are_those_that_have_a_kernel(monkeypatch, architecture, network, convolves):
    device, options = torch.device("cuda"), TorchOptions(precision="fp8")
    monkeypatch.setattr(precision, "architecture_of", lambda device: architecture)
    chosen = fp8_products(options, device, torch.bfloat16, network)
    assert [chosen(name) for name in CONVOLUTIONS] == [convolves] * 2
    assert chosen("blocks.0.ffn.0")
    told = f"{', '.join(CONVOLUTIONS)} stay out of FP8: {architecture} has no FP8 convolution of their sizes"
    assert fp8_lines(options, network, device, "0" * 64) == ([] if convolves else [told])
    assert fp8_lines(TorchOptions(), network, device, "0" * 64) == []


def test_nanos_convolutions_stay_as_they_are_on_hopper(monkeypatch):
    monkeypatch.setattr(precision, "architecture_of", lambda device: "sm_90")
    chosen = fp8_products(TorchOptions(precision="fp8"), torch.device("cuda"), torch.bfloat16, NANO)
    weights = load_weights(RandomSeed(0), NANO)
    network = build_network(NANO, weights, torch.device("cpu"), torch.float32, chosen)
    kinds = [type(layer) for layer in (network.projector.conv1, network.projector.conv2)]
    assert kinds == [FusedCausalConv] * 2
    assert isinstance(network.dit.blocks[0].ffn[0], Fp8Linear)


def test_a_measured_network_goes_back():
    network = load_random(NANO, torch.float32, "cpu")
    before = [*network.projector.modules(), *network.dit.modules()]

    def count(running):
        modules = [*running.projector.modules(), *running.dit.modules()]
        return sum("Fp8" in type(module).__name__ for module in modules)

    assert Measured(network).with_products(fp8_names(LAYERS), count) == 7 * LAYERS + 2
    assert [*network.projector.modules(), *network.dit.modules()] == before


@pytest.mark.parametrize(("preset", "of_attention"), [("nano", True), ("nano-full-attn", False)])
def test_dense_attention_is_not_measured(monkeypatch, preset, of_attention):
    monkeypatch.setattr(Measured, "with_products", lambda self, chosen, measure: 0.5)
    clip = Clip(replace(STREAM, preset=find_preset(preset)), np.empty(0))
    errors = product_errors(load_random(NANO, torch.float32, "cpu"), [clip])
    assert set(errors) == set(fp8_names(LAYERS)) - ({ATTENTION} if not of_attention else set())


def test_calibrating_keeps_the_worst_and_leaves_the_network_as_it_was(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    clip, table = tmp_path / "clip.mkv", tmp_path / "table.json"
    make_clip(clip, frames=5, size=(64, 64), picture=lambda index, *size: moving_picture(index))
    command = ["--preset", "nano", "--weights", "random:0", "--device", "cpu", "--schedule", "low-latency"]
    command += ["--psnr", "52", "-o", str(table)]
    outcome = CliRunner().invoke(calibrate, [str(clip), *command], catch_exceptions=False)
    assert outcome.exit_code == 0
    found = read_calibration(table, LAYERS)
    assert sorted(found.errors) == sorted(fp8_names(LAYERS))
    assert 0 < len(found.kept) < len(found.errors)
    assert found.psnr >= 48
    least_kept = min(found.errors[name] for name in found.kept)
    assert all(error <= least_kept for name, error in found.errors.items() if name not in found.kept)
    assert f"{len(found.kept)} of {len(found.errors)} products stay out of FP8" in caplog.text
