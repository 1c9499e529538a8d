"""Which implementation of each operator a run used, and how often: a silent fallback would show here."""

import json

import pytest
import torch

from flashvsr_trt.config.presets import find_preset
from tests.cli.command import call
from tests.clips import make_clip

FRAMES = 29
STEPS = {"official": 2, "low-latency": 4}
"""DiT steps of FRAMES frames: 4 units, of which the official schedule takes 3 at once."""
UNITS = 4


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=FRAMES, size=(64, 64))


def unit_calls(attention: str, schedule: str = "official") -> dict[str, int]:
    """Of all units: two causal convolutions, also where a clip is primed; 9 MemBlocks of three convolutions,
    two at the entry and one at the exit; two of three grow stages make frames.
    """
    convolved = 2 * (UNITS + (schedule == "official"))
    onednn = attention == "auto" and torch.backends.mkldnn.is_available()
    return {
        f"conv_relu/{'onednn' if onednn else 'reference'}": 30 * UNITS,
        "split_frames/reference": 2 * UNITS,
        "stack_frames/reference": convolved,
        "norm_silu/reference": convolved,
        f"conv_to_rgb/{'onednn' if onednn else 'reference'}": UNITS,
    }


def run_report(clip, capfd, *options: object) -> dict:
    out = clip.with_name("out.mkv")
    fixed = ("-o", out, "--overwrite", "--weights", "random", "--device", "cpu")
    fixed += ("--backend", "torch", "--json", "-")
    outcome = call(capfd, "run", clip, *fixed, *options)
    assert outcome.code == 0, outcome.err
    return json.loads(outcome.out)["executor"]


@pytest.mark.parametrize("attention", ["auto", "reference"])
@pytest.mark.parametrize("schedule", STEPS)
def test_every_layer_of_every_step_runs_each_operator(clip, capfd, schedule, attention):
    options = ("--preset", "nano", "--schedule", schedule, "--attention", attention)
    executor = run_report(clip, capfd, *options)
    calls = find_preset("nano").network.dit.layers * STEPS[schedule]
    assert executor["attention"] == attention
    assert executor["cuda_graphs"] is False
    assert executor["kernel_calls"] == unit_calls(attention, schedule) | {
        "norm_rope/reference": calls,
        "linear_gelu/reference": calls,
        "select_blocks/reference": calls,
        "block_sparse_attention/reference": calls,
        "add_norm/reference": 3 * calls,
        "finish_frames/reference": UNITS,
    }


def test_dense_attention_is_counted_as_what_it_is(clip, capfd):
    executor = run_report(clip, capfd, "--preset", "nano-full-attn", "--color-fix", "wavelet")
    calls = find_preset("nano-full-attn").network.dit.layers * STEPS["official"]
    assert executor["kernel_calls"] == unit_calls("auto") | {
        "norm_rope/reference": calls,
        "linear_gelu/reference": calls,
        "dense_attention/torch": calls,
        "add_norm/reference": 3 * calls,
    }


def test_a_second_run_counts_anew(clip, capfd):
    first, second = (run_report(clip, capfd, "--preset", "nano") for _ in range(2))
    assert first["kernel_calls"] == second["kernel_calls"]
