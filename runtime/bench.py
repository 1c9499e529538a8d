"""How fast a stream runs here: chunks of moving noise through a session, timed one by one and together."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from flashvsr_trt.notices import phase
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.session import Session


@dataclass(frozen=True)
class Timing:
    """Seconds: until the first frames of a clip were there, of each chunk after the warm-up, and of all these
    together, in which chunks overlap where the executor does that. `stages` are a chunk's, by stage."""

    first: float
    chunks: tuple[float, ...]
    together: float
    frames: int
    stages: dict[str, float]

    @property
    def fps(self) -> float:
        """Frames a second while chunks follow each other."""
        return self.frames / self.together


def time_session(executor: Executor, chunk_size: int, warm_up: int, count: int) -> Timing:
    """`count` chunks twice, after `warm_up` chunks each: waiting for each chunk, and then not."""
    geometry = executor.stream.geometry
    noise = np.random.default_rng(0)
    frames = noise.integers(0, 256, (2 * chunk_size, geometry.height, geometry.width, 3), np.uint8)

    def chunk(number: int) -> np.ndarray:
        """Another part of the noise each time, so that nothing can be kept from one to the next."""
        return frames[number % chunk_size : number % chunk_size + chunk_size]

    with phase("measuring", "chunks") as report:
        total = 2 * (warm_up + count)
        with Session(executor, chunk_size=chunk_size) as session:
            began = time.perf_counter()
            number = 0
            while not len(session.push(chunk(number))):
                number += 1
            first = time.perf_counter() - began
            for number in range(warm_up):
                session.push(chunk(number))
                report(number + 1, total, "warm-up")
            before, seconds = executor.stage_seconds(), []
            for number in range(count):
                began = time.perf_counter()
                session.push(chunk(number))
                seconds.append(time.perf_counter() - began)
                report(warm_up + number + 1, total, "latency")
            stages = {
                name: (at - before.get(name, 0.0)) / count for name, at in executor.stage_seconds().items()
            }
        with Session(executor, chunk_size=chunk_size, overlap=True) as session:
            made = 0
            while not made:
                made = len(session.push(chunk(0)))
            for number in range(warm_up):
                session.push(chunk(number))
            made, began = 0, time.perf_counter()
            for number in range(count):
                made += len(session.push(chunk(number)))
                report(total - count + number + 1, total, "throughput")
            together = time.perf_counter() - began
    return Timing(first, tuple(seconds), together, made, stages)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least `percent` of them do not exceed."""
    return float(np.percentile(values, percent, method="inverted_cdf"))
