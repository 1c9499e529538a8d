"""A steady chunk on a GPU: times, calls, launches, waits, memory, and parity of kernels, FP8 and engines."""

import gc
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from bench.gate.measure import Metrics, Sample
from bench.gate.parity import decibels
from bench.kernel_problems import SCENES
from bench.moving_clip import moving_frames
from bench.steady_stages import WEIGHTS, load_random, random_frames
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import UNIT_FRAMES, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.notices import log_notice
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.request import ExecutorRequest, TorchOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.executor import TorchExecutor

WARM_UP_CHUNKS = 12
"""As bench.pipeline: past the capture for each of the ring's slots, and some replays."""

CHUNKS = 4
"""A sample's: once around the ring."""

WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "cudaMemcpy")
LAUNCHES = (
    "cudaLaunchKernel",
    "cudaLaunchKernelExC",
    "cuLaunchKernel",
    "cuLaunchKernelEx",
    "cudaGraphLaunch",
)


def stream_of(preset: str, height: int, width: int) -> StreamConfig:
    """A frame upscaled 2x with the official schedule."""
    return StreamConfig(find_preset(preset), Geometry(height, width, 2), find_schedule("official"))


_steady: dict[tuple[str, str], Session] = {}


def steady(preset: str, scene: str) -> Session:
    """A session whose graphs are captured: the last one, and another ends it, so that memory is its own."""
    if (preset, scene) not in _steady:
        _steady.clear()
        gc.collect()
        torch.cuda.empty_cache()
        network = load_random(find_preset(preset).network, torch.bfloat16, "cuda")
        session = Session(TorchExecutor(network, stream_of(preset, *SCENES[scene])), overlap=True)
        push(session, WARM_UP_CHUNKS)
        _steady[preset, scene] = session
    return _steady[preset, scene]


def push(session: Session, chunks: int = CHUNKS) -> None:
    """Chunks, from host memory to host memory."""
    frames = random_frames(session.stream, UNIT_FRAMES)
    for _ in range(chunks):
        session.push(frames)


def latency(preset: str, scene: str) -> Sample:
    """Seconds of a chunk end to end, and of the device in each stage."""

    def sample() -> Metrics:
        session = steady(preset, scene)
        torch.cuda.synchronize()
        before, started = session.executor.stage_seconds(), time.perf_counter()
        push(session)
        torch.cuda.synchronize()
        whole, after = time.perf_counter() - started, session.executor.stage_seconds()
        stages = {name: (after[name] - before[name]) / CHUNKS for name in after}
        return stages | {"chunk": whole / CHUNKS}

    return sample


def counts(preset: str, scene: str) -> Sample:
    """Of CHUNKS chunks: kernel calls by implementation, launches, waits of the host. Captured graphs."""

    def sample() -> Metrics:
        session = steady(preset, scene)
        before = session.executor.kernel_calls.copy()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
            push(session)
        calls = session.executor.kernel_calls - before
        called = [event.name() for event in recorded.profiler.kineto_results.events()]
        graphs = session.state.graphs.values()
        return {f"calls.{name}": count for name, count in calls.items()} | {
            "captures": sum(len(kept.captured) for kept in graphs),
            "launches": sum(name in LAUNCHES for name in called),
            "host_synchronisations": sum(name in WAITS for name in called),
        }

    return sample


def memory(preset: str, scene: str) -> Sample:
    """The most that torch holds in a steady chunk, and bytes of a clip's state."""

    def sample() -> Metrics:
        session = steady(preset, scene)
        torch.cuda.synchronize()
        held = torch.cuda.memory_allocated()
        state = session.executor.new_state()
        state_bytes = torch.cuda.memory_allocated() - held
        del state
        torch.cuda.reset_peak_memory_stats()
        push(session)
        torch.cuda.synchronize()
        return {"peak_bytes": torch.cuda.max_memory_allocated(), "state_bytes": state_bytes}

    return sample


def clip_through(executor, frames: np.ndarray) -> np.ndarray:
    """A whole clip."""
    with Session(executor) as session:
        return np.concatenate([session.push(frames), session.flush()])


def parity(preset: str, scene: str, precisions: Sequence[str]) -> Sample:
    """Frames by the kernels in bfloat16, and in FP8, against the references in float32, of one clip."""
    stream = stream_of(preset, *SCENES[scene])
    frames = moving_frames(stream.geometry.width, stream.geometry.height, 29)

    def made(dtype: torch.dtype, options: TorchOptions) -> np.ndarray:
        network = load_random(stream.preset.network, dtype, "cuda", options.precision)
        return clip_through(TorchExecutor(network, stream, options), frames)

    def sample() -> Metrics:
        plain = made(torch.float32, TorchOptions(attention="reference", cuda_graphs=False))
        found: Metrics = {}
        for precision in precisions:
            of_kernels = made(torch.bfloat16, TorchOptions(precision=precision))
            found |= {f"{precision}_db": decibels(plain, of_kernels, 255.0), "frames": len(of_kernels)}
        return found

    return sample


def engines(preset: str, size: str) -> Sample:
    """Frames by engines, of the flavour that `auto` means here, against torch's; built once to the cache."""
    width, height = map(int, size.split("x"))
    stream = stream_of(preset, height, width)
    frames = moving_frames(width, height, 29)

    def sample() -> Metrics:
        request = ExecutorRequest(stream, WEIGHTS)
        of_engines = clip_through(open_executor("tensorrt", request, log_notice), frames)
        of_torch = clip_through(open_executor("torch", request, log_notice), frames)
        return {"engines_db": decibels(of_torch, of_engines, 255.0), "frames": len(of_engines)}

    return sample
