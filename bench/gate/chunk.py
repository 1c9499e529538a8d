"""A steady chunk of 8 frames on the CPU: what it calls, what it takes, and how long its stages are busy."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from bench.cpu import decode_frame_by_frame
from bench.gate.measure import Metrics, Sample
from bench.steady_stages import SteadyStages, load_random
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig, decode_signature
from flashvsr_trt.model.decoder import Decoder
from flashvsr_trt.model.weights.random import random_weights
from flashvsr_trt.runtime.torch.executor import TorchExecutor

HOST_READS = ("item", "_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "equal")
"""Operators whose result the host needs before it can go on: on a GPU it waits there."""


@cache
def steady(preset: str, size: str) -> SteadyStages:
    """Its ring is full. `size`: of the LR frame, width x height."""
    width, height = map(int, size.split("x"))
    stream = StreamConfig(find_preset(preset), Geometry(height, width, 2), find_schedule("low-latency"))
    return SteadyStages(TorchExecutor(load_random(stream.preset.network, torch.float32, "cpu"), stream))


class CountedOperators(TorchDispatchMode):
    """Counts torch's operators by name, `mul`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_dispatch__(self, operator, types, arguments=(), options=None):
        self.calls[operator.overloadpacket.__name__] += 1
        return operator(*arguments, **(options or {}))


def python_calls(call: Callable[[], object]) -> int:
    """Python functions that a call enters, in this thread: the same number whatever the machine does."""
    entered = 0

    def watch(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal entered
        entered += event == "call"

    sys.setprofile(watch)
    try:
        call()
    finally:
        sys.setprofile(None)
    return entered


def counts(preset: str, size: str) -> Sample:
    """Kernel calls by implementation, torch's operators, those the host waits for, and Python functions."""
    stages = steady(preset, size)

    def sample() -> Metrics:
        before = stages.executor.kernel_calls.copy()
        with CountedOperators() as counted:
            stages.unit()
        calls = stages.executor.kernel_calls - before
        return {f"calls.{name}": count for name, count in calls.items()} | {
            "operators": counted.calls.total(),
            "host_reads": sum(counted.calls[name] for name in HOST_READS),
            "python_calls": python_calls(stages.unit),
        }

    return sample


def allocations(call: Callable[[], object]) -> tuple[int, int]:
    """Bytes that torch's CPU allocator holds more after a call, and the most that it held more meanwhile."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        kept = call()
    events = recorded.profiler.kineto_results.events()
    held = most = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    del kept
    return held, most


def memory(preset: str, size: str) -> Sample:
    """Bytes of a clip's state, and the most that a steady chunk takes beside it."""
    stages = steady(preset, size)

    def sample() -> Metrics:
        # The first one's frees are of blocks that were there before the profiler, which it does not know.
        allocations(stages.unit)
        state, _ = allocations(stages.executor.new_state)
        _, peak = allocations(stages.unit)
        return {"state_bytes": state, "peak_bytes": peak}

    return sample


def processor_seconds(call: Callable[[], object], times: int = 1) -> float:
    """Of one call, of all threads of this process: a machine that is busy with others lengthens it least."""
    started = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - started) / times


def latency(preset: str, size: str) -> Sample:
    """Each stage of a chunk, and all three. Short stages run more often, so that a moment is less of them."""
    stages = steady(preset, size)
    calls = {"encode": (stages.encode, 4), "dit": (stages.dit, 4), "decode": (stages.decode, 1)}

    def sample() -> Metrics:
        seconds = {name: processor_seconds(*call) for name, call in calls.items()}
        return seconds | {"chunk": sum(seconds.values())}

    return sample


def decoder_speedup(preset: str, size: str) -> Sample:
    """The decoder's time over that of the published layers, a frame at a time."""
    stages = steady(preset, size)
    stream = stages.executor.stream
    published = Decoder(stream.preset.network)
    published.load_state_dict(random_weights(stream.preset.network, seed=0)["decoder"])
    carried = [torch.zeros(spec.shape) for spec in decode_signature(stream).state]
    inputs = stages.latent, stages.condition

    @torch.inference_mode()
    def sample() -> Metrics:
        fast = processor_seconds(lambda: stages.executor.decode_stage.decoder(*inputs, carried))
        slow = processor_seconds(lambda: decode_frame_by_frame(published, *inputs, carried))
        return {"slowdown": fast / slow}

    return sample
