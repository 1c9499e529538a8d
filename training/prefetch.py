"""Batches made ahead by threads, while the GPU trains: the same batches in the same order as one by one."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

import torch

from training.batches import Batch, turned

AHEAD = 2
"""Batches that wait for each thread."""

Ready = tuple[Batch, torch.cuda.Event | None]


def steps_from(
    make: Callable[[int], Batch], first: int, uses: int, threads: int, device: torch.device
) -> Iterator[Batch]:
    """The batch of step `first`, of the next step, and so on: `make(step // uses)`, turned.

    With no threads each batch is made when it is asked for. On a GPU each thread has a stream of its own.
    """
    if not threads:
        while True:
            batch = make(first // uses)
            for use in range(first % uses, uses):
                yield turned(batch, use)
                first += 1
    with closing(_made_ahead(make, first // uses, threads, device)) as batches:
        for batch in batches:
            for use in range(first % uses, uses):
                yield turned(batch, use)
                first += 1


def _made_ahead(
    make: Callable[[int], Batch], first: int, threads: int, device: torch.device
) -> Iterator[Batch]:
    waiting: deque[Future[Ready]] = deque()
    streams: deque[torch.cuda.Stream] = deque()
    if device.type == "cuda":
        streams.extend(torch.cuda.Stream() for _ in range(threads))

    def make_on_own_stream(number: int) -> Ready:
        with own_stream(streams) as stream:
            batch = make(number)
            return batch, stream.record_event() if stream else None

    with ThreadPoolExecutor(threads, "batches") as pool:
        try:
            while True:
                while len(waiting) < AHEAD * threads:
                    waiting.append(pool.submit(make_on_own_stream, first))
                    first += 1
                batch, made = waiting.popleft().result()
                if made is not None:
                    used_here(batch, made)
                yield batch
        finally:
            for future in waiting:
                future.cancel()


@contextmanager
def own_stream(streams: deque[torch.cuda.Stream]) -> Iterator[torch.cuda.Stream | None]:
    """One of the free streams as the current one, if there are any."""
    if not streams:
        yield None
        return
    stream = streams.popleft()
    try:
        with torch.cuda.stream(stream):
            yield stream
    finally:
        streams.append(stream)


def used_here(batch: Batch, made: torch.cuda.Event) -> None:
    """Let the current stream wait for a batch, and its memory for the current stream."""
    here = torch.cuda.current_stream()
    here.wait_event(made)
    for tensor in (batch.upscaled, batch.target, batch.noise):
        tensor.record_stream(here)
