"""Replayed steps against eager ones: the bookkeeping everywhere, real CUDA graphs where there is a GPU."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.unit_work import run_without_memory
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig, find_schedule
from flashvsr_trt.config.signatures import COLOR_FIXES, UPSAMPLERS, StreamConfig
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.model.network import build_network
from flashvsr_trt.runtime.request import TorchOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch import graphs as torch_graphs
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from tests.golden import assert_within_levels, end_to_end_weights, golden_preset, load_case
from tests.runtime.torch_executor.rerun import rerun_instead_of_graphs

CHUNKS = 10
SCHEDULES = ("official", "low-latency")
PRESETS = {
    "sparse": golden_preset(AttentionConfig(sparse_ratio=0.1, local_range=3)),
    "dense": golden_preset(AttentionConfig(sparse_ratio=None)),
}


def upscale(executor: TorchExecutor, chunks: int = CHUNKS) -> np.ndarray:
    """Chunks of random frames, seed 0."""
    geometry = executor.stream.geometry
    shape = (8 * chunks, geometry.height, geometry.width, 3)
    session = Session(executor)
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    made = [session.push(part) for part in np.split(frames, chunks)]
    return np.concatenate([*made, session.flush()])


def executor_on(
    device: str,
    preset: str,
    schedule: str,
    dtype: torch.dtype = torch.float32,
    options: TorchOptions | None = None,
) -> TorchExecutor:
    stream = StreamConfig(PRESETS[preset], Geometry(64, 128, 2), find_schedule(schedule))
    weights = end_to_end_weights(load_case("e2e_official"))
    network = build_network(stream.preset.network, weights, torch.device(device), dtype)
    return TorchExecutor(network, stream, options)


@pytest.fixture
def steps_through_graphs():
    with rerun_instead_of_graphs() as names:
        yield names


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("preset", PRESETS)
def test_replays_give_the_eager_frames_and_counts(steps_through_graphs, preset, schedule):
    eager = executor_on("cpu", preset, schedule)
    expected = upscale(eager)
    assert steps_through_graphs == []
    replayed = executor_on("cpu", preset, schedule)
    replayed.cuda_graphs = True
    assert np.array_equal(upscale(replayed), expected)
    assert replayed.kernel_calls == eager.kernel_calls
    slots = {f"dit into slot {slot}" for slot in range(4)}
    assert set(steps_through_graphs) == {"encode", "decode"} | slots
    # While the ring fills, steps are not captured.
    filling = {"official": 1, "low-latency": 3}[schedule]
    dit_steps = CHUNKS + 1 - 2 * (schedule == "official")
    assert sum(name in slots for name in steps_through_graphs) == dit_steps - filling


class OnOneDevice(TorchDispatchMode):
    """Every tensor of every operator is on the meta device: nothing comes from the host or goes to it."""

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        result = operator(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            assert not isinstance(value, torch.Tensor) or value.device.type == "meta", operator
        return result


@pytest.mark.parametrize("upsampler", UPSAMPLERS)
@pytest.mark.parametrize("color_fix", COLOR_FIXES)
@pytest.mark.parametrize("preset", PRESETS)
def test_a_steady_step_copies_nothing_between_host_and_device(preset, color_fix, upsampler):
    """Such a copy cannot be captured; a CPU would not notice it, and the meta device does."""
    geometry, schedule = Geometry(60, 130, 2), find_schedule("official")
    stream = StreamConfig(PRESETS[preset], geometry, schedule, upsampler, color_fix)
    run_without_memory(stream, {stage: OnOneDevice() for stage in ("encode", "dit", "decode")})


def test_two_clips_of_one_executor_do_not_meet(steps_through_graphs):
    executor = executor_on("cpu", "sparse", "low-latency")
    expected = upscale(executor, 5)
    executor.cuda_graphs = True
    assert np.array_equal(upscale(executor, 5), expected)
    assert np.array_equal(upscale(executor, 5), expected)


def test_a_step_that_cannot_be_captured_is_an_error_that_says_what_to_do(monkeypatch):
    def refuse(step, buffers, pool, stream):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 0))
    monkeypatch.setattr(torch_graphs, "capture", refuse)
    graphs = torch_graphs.StepGraphs(torch.device("cpu"))
    with pytest.raises(DeviceError, match=r"step decode: operation not permitted.*--no-cuda-graphs"):
        graphs.run("decode", lambda x: (x,), (torch.zeros(1),))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_cuda_graphs_give_the_eager_frames(preset, schedule, dtype):
    eager = executor_on("cuda", preset, schedule, dtype, TorchOptions(cuda_graphs=False))
    graphs = executor_on("cuda", preset, schedule, dtype, TorchOptions(cuda_graphs=True))
    expected = upscale(eager)
    assert_within_levels(upscale(graphs), expected)
    assert graphs.kernel_calls == eager.kernel_calls
    assert not [name for name in graphs.kernel_calls if name.endswith("/reference")]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("preset", PRESETS)
def test_the_kernels_give_the_references_frames_on_a_gpu(preset):
    kernels = executor_on("cuda", preset, "official", torch.bfloat16)
    references = executor_on("cuda", preset, "official", torch.bfloat16, TorchOptions(attention="reference"))
    made, expected = (upscale(executor).astype(np.float64) for executor in (kernels, references))
    assert all(name.endswith(("/reference", "/torch")) for name in references.kernel_calls)
    assert 10 * np.log10(255**2 / np.mean((made - expected) ** 2)) > 30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_encode_gives_can_be_read_at_once():
    executor = executor_on("cuda", "sparse", "official", torch.bfloat16, TorchOptions(cuda_graphs=False))
    state = executor.new_state()
    frames = np.random.default_rng(0).integers(0, 256, (8, 64, 128, 3), np.uint8)
    with torch.cuda.stream(executor.encoding):
        busy = torch.full((8192, 8192), 0.5, device="cuda", dtype=torch.bfloat16)
        for _ in range(50):
            busy = busy @ busy
    given = executor.encode(frames, True, state)
    read = [tensor.cpu() for tensor in given]
    torch.cuda.synchronize()
    assert all(torch.equal(early, late.cpu()) for early, late in zip(read, given, strict=True))
