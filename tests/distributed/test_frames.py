"""Ranks together make the frames of a single process, and say no more to each other than is documented."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from flashvsr_trt.config.presets import UNIT_FRAMES
from flashvsr_trt.model.network import build_network
from flashvsr_trt.model.sharding import Sharding, length
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from tests.distributed.cases import (
    MANY_HEADS_STREAMS,
    NANO_STREAMS,
    PUSHES,
    STREAMS,
    THINNED,
    THINNED_STREAMS,
    WEIGHTS,
    Made,
    keep_floats,
    run_clip,
)
from tests.distributed.clip_job import run_streams
from tests.distributed.launch import run_ranks
from tests.distributed.traffic import unit_traffic

pytestmark = pytest.mark.slow

JOBS = {
    2: (*NANO_STREAMS,),
    3: ("nano, sparse, official", "nano, dense, low-latency"),
    4: ("nano, sparse, low-latency", "nano, dense, official", *THINNED_STREAMS),
    5: (*MANY_HEADS_STREAMS,),
}
"""Streams of each number of ranks. 2 ranks share nano's heads unevenly, and of 4 one has none."""

RUNS = [pytest.param(ranks, name, id=f"{name}, {ranks} ranks") for ranks in JOBS for name in JOBS[ranks]]


@cache
def single_process(name: str) -> Made:
    stream = STREAMS[name]
    weights = load_weights(resolve_weights(WEIGHTS, stream.preset.network), stream.preset.network)
    network = build_network(stream.preset.network, weights, torch.device("cpu"), torch.float32)
    executor = TorchExecutor(network, stream)
    floats = keep_floats(executor.decode_stage)
    frames = run_clip(executor)
    return Made(torch.cat(floats), frames, executor.describe()["kernel_calls"])


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory):
    """ranks -> the folder of its job, which runs once, when it is first asked for."""

    @cache
    def run(ranks: int) -> Path:
        folder = tmp_path_factory.mktemp(f"{ranks}_ranks")
        run_ranks(ranks, run_streams, folder, JOBS[ranks])
        return folder

    return run


@pytest.mark.parametrize(("ranks", "name"), RUNS)
def test_float_frames_of_7_chunks_are_within_1e_5_of_a_single_process(job, ranks, name):
    folder, expected = job(ranks), single_process(name)
    rows = [torch.from_numpy(np.load(folder / f"{name}.{rank}.npy")) for rank in range(ranks)]
    floats = torch.cat(rows, dim=2)
    assert floats.shape == expected.floats.shape
    assert len(floats) >= 7 * UNIT_FRAMES
    assert expected.floats.std() > 0.02
    torch.testing.assert_close(floats, expected.floats, rtol=0, atol=1e-5)
    frames = np.load(folder / f"{name}.npy").astype(np.int16)
    assert len(frames) == sum(PUSHES)
    assert np.abs(frames - expected.frames).max() <= 1


@pytest.mark.parametrize(
    "name", [name for name, stream in STREAMS.items() if stream.preset.attention == THINNED]
)
def test_a_steady_unit_of_a_thinned_stream_drops_at_least_a_third_of_its_blocks(name):
    geometry, attention = STREAMS[name].geometry, STREAMS[name].preset.attention
    blocks = geometry.unit_windows**2 * attention.ring_slots
    assert 0 < geometry.top_k(attention) <= blocks * 2 / 3


@pytest.mark.parametrize(("ranks", "name"), RUNS)
def test_a_steady_unit_moves_the_documented_bytes(job, ranks, name):
    reports = json.loads((job(ranks) / f"{name}.json").read_text())
    before, after = reports[1:3]
    moved: dict[str, int] = {}
    for earlier, later in zip(before, after, strict=True):
        for kind, count in later["sent_bytes"].items():
            moved[kind] = moved.get(kind, 0) + count - earlier["sent_bytes"].get(kind, 0)
    moved = {kind: count for kind, count in moved.items() if count}
    assert moved == unit_traffic(Sharding(STREAMS[name], ranks), dtype_bytes=4)


@pytest.mark.parametrize(("ranks", "name"), RUNS)
def test_a_rank_calls_each_operator_as_often_as_a_single_process(job, ranks, name):
    reports = json.loads((job(ranks) / f"{name}.json").read_text())[-1]
    expected = single_process(name).kernel_calls
    of_heads = ("select_blocks/", "block_sparse_attention/", "dense_attention/")
    for report in reports:
        # A rank without heads attends to nothing.
        wanted = {call: n for call, n in expected.items() if report["heads"] or not call.startswith(of_heads)}
        assert report["kernel_calls"] == wanted


@pytest.mark.parametrize(("ranks", "name"), RUNS)
def test_a_rank_keeps_the_ring_of_its_heads_and_the_rest_of_its_rows(job, ranks, name):
    stream = STREAMS[name]
    sharding = Sharding(stream, ranks)
    network, slots = stream.preset.network.dit, stream.preset.attention.ring_slots
    # The last one was made after the session was closed.
    reports = json.loads((job(ranks) / f"{name}.json").read_text())[-2]
    assert [report["heads"] for report in reports] == [length(run) for run in sharding.heads]
    assert sum(report["heads"] for report in reports) == network.heads
    head_ring = (
        network.layers
        * slots
        * network.head_dim
        * (2 * stream.geometry.unit_tokens + stream.geometry.unit_windows)
    )
    rest = [report["state_bytes"] - report["heads"] * head_ring * 4 for report in reports]
    per_row = {remaining / report["rows"] for remaining, report in zip(rest, reports, strict=True)}
    assert len(per_row) == 1
