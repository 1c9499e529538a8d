"""What each rank gets of a stream: all of it, once, and enough of the input to make its part."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import NANO, find_preset, find_schedule
from flashvsr_trt.config.signatures import UPSAMPLERS, StreamConfig
from flashvsr_trt.errors import UsageError
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.model.sharding import Sharding, split_evenly
from flashvsr_trt.model.stages import Encode
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from tests.distributed.cases import WEIGHTS


@pytest.fixture(scope="module")
def network() -> Network:
    weights = load_weights(resolve_weights(WEIGHTS, NANO), NANO)
    return build_network(NANO, weights, torch.device("cpu"), torch.float32)


@given(count=st.integers(0, 100), parts=st.integers(1, 12))
def test_runs_follow_each_other_and_differ_by_one_at_most(count, parts):
    runs = split_evenly(count, parts)
    assert [index for run in runs for index in range(count)[run]] == list(range(count))
    sizes = {run.stop - run.start for run in runs}
    assert max(sizes) - min(sizes) <= 1


@settings(deadline=None, max_examples=30)
@given(
    height=st.integers(8, 150),
    width=st.integers(8, 150),
    scale=st.sampled_from([2, 4]),
    fit=st.sampled_from(["pad", "crop"]),
    upsampler=st.sampled_from(UPSAMPLERS),
    size=st.sampled_from([2, 4, 8]),
)
def test_the_rows_that_ranks_upscale_are_those_of_the_whole_frame(
    network, height, width, scale, fit, upsampler, size
):
    if fit == "crop" and min(height, width) * scale < 128:
        fit = "pad"
    geometry = Geometry(height, width, scale, fit)
    stream = StreamConfig(find_preset("nano"), geometry, find_schedule("official"), upsampler)
    sharding = Sharding(stream, size)
    frames = torch.randint(0, 256, (1, height, width, 3), dtype=torch.uint8)

    def upscaled(stage: Encode, rows: torch.Tensor) -> torch.Tensor:
        return stage.upscaler(rows, torch.float32)[0]

    made = []
    for rank in range(size):
        ranks = SimpleNamespace(rank=rank, size=size, device=torch.device("cpu"))
        stage = Encode(network, stream, ranks)
        made.append(upscaled(stage, frames[:, sharding.lr_rows[rank]]))
    assert torch.equal(torch.cat(made, dim=2), upscaled(Encode(network, stream), frames))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (9, "9 ranks cannot share the 8 rows .* use at most 8 ranks"),
        (16, "16 ranks cannot share the 8 rows .* use at most 8 ranks"),
    ],
)
def test_a_number_of_ranks_that_cannot_share_a_stream_is_a_usage_error(size, message):
    stream = StreamConfig(find_preset("nano"), Geometry(64, 128, 2), find_schedule("official"))
    with pytest.raises(UsageError, match=message):
        Sharding(stream, size)


def test_the_published_network_shares_its_heads_among_eight_ranks_unevenly():
    stream = StreamConfig(find_preset("sparse-2.0"), Geometry(384, 640, 2), find_schedule("official"))
    sharding = Sharding(stream, 8)
    assert [run.stop - run.start for run in sharding.heads] == [2, 2, 2, 2, 1, 1, 1, 1]
    # Whole windows: 60 of them, 180 in the first step of three units.
    assert [run.stop - run.start for run in sharding.tokens(1)] == [1024] * 4 + [896] * 4
    assert [run.stop - run.start for run in sharding.windows(3)] == [23] * 4 + [22] * 4
    assert {run.stop - run.start for run in sharding.rows} == {6}
