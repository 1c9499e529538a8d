"""Whole clips against the official pipeline, through the same Session that users run."""

import numpy as np
import pytest
import torch

from flashvsr_trt.model.network import build_network
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from tests.golden import assert_close_to_max, assert_within_levels, end_to_end_weights, load_case
from tests.golden_clips import RecordingExecutor, as_official, golden_noise, network_of, skip_two, stream_of


def without_empty_slots(mask: torch.Tensor, past_units: int, windows: int) -> torch.Tensor:
    """Our mask has a column for every slot of the ring; while it fills, slots are in order of age."""
    own = mask.shape[1] // windows
    assert not mask[:, :, (past_units + own) * windows :].any()
    return mask[None, :, :, : (past_units + own) * windows]


def test_the_official_schedule_gives_the_official_frames_with_the_defaults():
    case = load_case("e2e_official")
    executor = RecordingExecutor(network_of(case), stream_of(case, "official", "pil"))
    session = Session(executor, noise=golden_noise(case))
    lr = case["lr"].numpy()
    frames = np.concatenate([session.push(lr), session.flush()])

    assert frames.shape[0] == len(lr)
    for call, past in ((0, 0), (1, 3)):
        mask = without_empty_slots(executor.first_layer_masks()[call], past, windows=2)
        assert torch.equal(mask, case[f"dbg.mask.{call}.0"])
    assert_close_to_max(executor.tokens[0][::2][None], case["lq_even.0"])
    for unit in range(4):
        assert_close_to_max(as_official(executor.latents[unit])[..., ::2, ::2], case[f"latent_even.{unit}"])
    assert_within_levels(frames[::2], case["frames_u8_some"].numpy())
    assert (frames[::2] != case["frames_u8_some"].numpy()).mean() < 1e-3
    for index in (0, 28):
        as_float = ((case[f"frame.{index}"] + 1) * 127.5).numpy()
        assert np.abs(frames[index] - as_float).max() < 1.01


def test_the_streaming_schedule_gives_the_flashdreams_frames_with_its_positions_and_upsampling():
    case = load_case("e2e_streaming")
    executor = RecordingExecutor(network_of(case), stream_of(case, "low-latency", "torch"))
    session = Session(executor, noise=golden_noise(case), position=skip_two)
    lr = case["lr"].numpy()
    parts = [session.push(part) for part in np.split(lr, [5, 13])]
    assert [len(part) for part in parts] == [5, 8, 8]
    assert len(session.flush()) == 0
    frames = np.concatenate(parts)

    for unit in range(3):
        mask = without_empty_slots(executor.first_layer_masks()[unit], unit, windows=1)
        assert torch.equal(mask, case[f"dbg.mask.{unit}.0"])
        assert_close_to_max(executor.tokens[unit][None], case[f"lq.{unit}"])
        assert_close_to_max(as_official(executor.latents[unit]), case[f"latent.{unit}"])
    assert_within_levels(frames, case["frames_u8"].numpy())
    assert (frames != case["frames_u8"].numpy()).mean() < 1e-3


@pytest.mark.parametrize(
    ("schedule", "case_name"), [("official", "e2e_official"), ("low-latency", "e2e_streaming")]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close_to_float32(schedule, case_name, dtype):
    case = load_case(case_name)
    stream = stream_of(case, schedule, "pil")
    lr = case["lr"].numpy()
    results = []
    for compute in (torch.float32, dtype):
        preset = stream.preset
        network = build_network(preset.network, end_to_end_weights(case), torch.device("cpu"), compute)
        session = Session(TorchExecutor(network, stream), noise=golden_noise(case))
        results.append(np.concatenate([session.push(lr), session.flush()]).astype(np.float64))
    mean_square = np.mean((results[0] - results[1]) ** 2)
    assert 10 * np.log10(255**2 / mean_square) > 30
