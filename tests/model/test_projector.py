"""The LR projector against the official one."""

from collections.abc import Callable

import pytest
import torch

from flashvsr_trt.config.presets import AttentionConfig
from flashvsr_trt.model.fused_projector import CONVOLUTIONS, FusedProjector, unshuffle
from tests.golden import assert_close_to_max, golden_preset, load_case
from training.published import PublishedProjector

CASE = "projector_32x48"


@pytest.fixture(params=["published", "fused"])
def projector(request: pytest.FixtureRequest) -> Callable[..., tuple[torch.Tensor, ...]]:
    module = PublishedProjector(golden_preset(AttentionConfig(sparse_ratio=None)).network)
    module.load_state_dict(load_case(CASE).under("weights."))
    module = module.eval().requires_grad_(False)
    if request.param == "published":
        return module
    fused = FusedProjector(module)
    return lambda video, *state: fused(unshuffle(video), *state)


def empty_tails() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(2, 768, 2, 3), torch.zeros(2, 6, 2, 3)


def time_first(tail: torch.Tensor) -> torch.Tensor:
    return tail[0].transpose(0, 1)


def test_streaming_protocol_gives_the_official_tokens_and_tails(projector):
    case = load_case(CASE)
    video = case["video"][0].transpose(0, 1)
    padded = torch.cat([video[:1].expand(3, -1, -1, -1), video])
    tails = empty_tails()
    for call in range(3):
        frames = padded[call * 8 : call * 8 + 8]
        tokens, *tails = projector(frames, torch.tensor(call == 0), *tails)
        assert_close_to_max(tokens[None], case[f"stream.out.{call}.0"])
        assert_close_to_max(tails[0], time_first(case[f"stream.tail1.{call}"]))
        assert_close_to_max(tails[1], time_first(case[f"stream.tail2.{call}"]))


def test_official_protocol_primed_with_a_still_frame_gives_the_official_tokens(projector):
    case = load_case(CASE)
    video = case["video"][0].transpose(0, 1)
    _, *tails = projector(video[:1].expand(8, -1, -1, -1), torch.tensor(True), *empty_tails())
    assert_close_to_max(tails[0], time_first(case["official.tail1.0"]))
    assert_close_to_max(tails[1], time_first(case["official.tail2.0"]))
    for call in range(1, 6):
        frames = video[call * 4 - 3 : call * 4 + 1]
        tokens, *tails = projector(frames, torch.tensor(False), *tails)
        assert_close_to_max(tokens[None], case[f"official.out.{call}.0"])
        assert_close_to_max(tails[1], time_first(case[f"official.tail2.{call}"]))


def test_eight_frames_at_once_give_the_tokens_of_four_and_four(projector):
    case = load_case(CASE)
    video = case["video"][0].transpose(0, 1)
    together, *_ = projector(video[:8], torch.tensor(True), *empty_tails())
    first, *tails = projector(video[:4], torch.tensor(True), *empty_tails())
    second, *_ = projector(video[4:8], torch.tensor(False), *tails)
    torch.testing.assert_close(together, torch.cat([first, second]))


def test_in_fp8_tokens_are_near():
    case = load_case(CASE)
    module = PublishedProjector(golden_preset(AttentionConfig(sparse_ratio=None)).network)
    module.load_state_dict(case.under("weights."))
    projector = FusedProjector(module.eval().requires_grad_(False))
    arguments = unshuffle(case["video"][0].transpose(0, 1)[:8]), torch.tensor(True), *empty_tails()
    wanted, *_ = projector(*arguments)
    for chosen in CONVOLUTIONS:
        projector.quantise(lambda name, chosen=chosen: name == chosen)
        error = (projector(*arguments)[0] - wanted).norm() / wanted.norm()
        assert 0.005 < error < 0.12
