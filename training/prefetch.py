"""Batches made ahead by threads, while the GPU trains: the same batches in the same order as one by one."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from threading import Lock

import torch

from training.batches import Batch, turned

AHEAD = 2
"""Batches that wait for each thread."""

Ready = tuple[Batch, torch.cuda.Event | None]


class MakingThreads:
    """How many threads make batches, and a way to have them rest: while one captures, no other may launch."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.locks = [Lock() for _ in range(count)]

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Wait until all have made the batch in hand, and keep them from the next."""
        for lock in self.locks:
            lock.acquire()
        try:
            yield
        finally:
            for lock in self.locks:
                lock.release()


def steps_from(
    make: Callable[[int], Batch], first: int, uses: int, threads: MakingThreads, device: torch.device
) -> Iterator[Batch]:
    """The batch of step `first`, of the next step, and so on: `make(step // uses)`, turned.

    With no threads each batch is made when it is asked for. On a GPU each thread has a stream of its own.
    """
    number = first // uses
    made = _made_ahead(make, number, threads, device) if threads.count else (make(n) for n in count(number))
    with closing(made) as batches:
        for batch in batches:
            for use in range(first % uses, uses):
                yield turned(batch, use)
                first += 1


def _made_ahead(
    make: Callable[[int], Batch], first: int, threads: MakingThreads, device: torch.device
) -> Iterator[Batch]:
    waiting: deque[Future[Ready]] = deque()
    on_gpu = device.type == "cuda"
    places = deque((lock, torch.cuda.Stream() if on_gpu else None) for lock in threads.locks)

    def make_on_own_stream(number: int) -> Ready:
        lock, stream = places.popleft()
        try:
            with lock, torch.cuda.stream(stream):
                batch = make(number)
                return batch, stream.record_event() if stream else None
        finally:
            places.append((lock, stream))

    with ThreadPoolExecutor(threads.count, "batches") as pool:
        try:
            while True:
                while len(waiting) < AHEAD * threads.count:
                    waiting.append(pool.submit(make_on_own_stream, first))
                    first += 1
                batch, made = waiting.popleft().result()
                if made is not None:
                    used_here(batch, made)
                yield batch
        finally:
            for future in waiting:
                future.cancel()


def used_here(batch: Batch, made: torch.cuda.Event) -> None:
    """Let the current stream wait for a batch, and its memory for the current stream."""
    here = torch.cuda.current_stream()
    here.wait_event(made)
    for tensor in batch.tensors:
        tensor.record_stream(here)
