"""The one timer of all GPU benchmarks, and the two ceilings that figures are compared with."""

import statistics
import sys
from collections.abc import Callable

import torch

WARM_UP = 3
REPEATS = 15


def require_gpu() -> str:
    """The device's name. Ends the program where there is none: a CPU's figures would mislead."""
    if not torch.cuda.is_available():
        print("this benchmark measures a GPU, and no CUDA device is visible; run it on one", file=sys.stderr)
        raise SystemExit(1)
    return torch.cuda.get_device_name()


def median_microseconds(call: Callable[[], object], calls: int = 5) -> float:
    """Device time of one call: the median over replays of a CUDA graph of `calls` calls, by CUDA events."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(calls):
            call()
    graph.replay()
    times = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / calls)
    return statistics.median(times)


def milliseconds_each(call: Callable[[], object], calls: int) -> float:
    """Device time of one of `calls` calls in a row, by CUDA events."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / calls


def matmul_ceiling() -> float:
    """TFLOP/s of an 8192-cubed bf16 product of random matrices."""
    side = 8192
    a, b = (torch.randn(side, side, device="cuda").bfloat16() for _ in range(2))
    return 2 * side**3 / median_microseconds(lambda: a @ b) / 1e6


def copy_ceiling() -> float:
    """GB/s of a 2 GiB device-to-device copy, bytes read plus bytes written."""
    source = torch.randn(2**29, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.nbytes / median_microseconds(lambda: target.copy_(source), calls=2) / 1e3
