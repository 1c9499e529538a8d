"""Training steps as CUDA graphs: a step is thousands of short kernels, and launching each takes longer."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from training.batches import Batch
from training.prefetch import MakingThreads

EAGER_STEPS = 2
"""Of each schedule and size, before its step is captured: libraries choose their kernels in these."""

Step = Callable[[Batch], torch.Tensor]


@dataclass(frozen=True)
class CapturedStep:
    """A graph, the batch it reads and the tensor it writes."""

    graph: torch.cuda.CUDAGraph
    batch: Batch
    made: torch.Tensor

    def replay(self, batch: Batch) -> torch.Tensor:
        """The step on another batch of the same kind; the result is a copy."""
        for place, tensor in zip(self.batch.tensors, batch.tensors, strict=True):
            place.copy_(tensor)
        self.graph.replay()
        return self.made.clone()


class ReplayedSteps:
    """`step`, captured once for each schedule and size and replayed from then on.

    A step must drop all gradients before it makes its own, wait for nothing, and read no other tensor that is
    made anew from step to step. `threads` rest while it is captured.
    """

    def __init__(self, step: Step, threads: MakingThreads) -> None:
        self.step, self.threads = step, threads
        self.eager: Counter[tuple] = Counter()
        self.captured: dict[tuple, CapturedStep] = {}
        self.stream = torch.cuda.Stream()

    def __call__(self, batch: Batch) -> torch.Tensor:
        """See `step`."""
        kind = (batch.stream.schedule, tuple(batch.upscaled.shape))
        if kind in self.captured:
            return self.captured[kind].replay(batch)
        self.stream.wait_stream(torch.cuda.current_stream())
        if self.eager[kind] < EAGER_STEPS:
            self.eager[kind] += 1
            with torch.cuda.stream(self.stream):
                made = self.step(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
            return made
        self.captured[kind] = self.capture(batch)
        return self.captured[kind].replay(batch)

    def capture(self, batch: Batch) -> CapturedStep:
        """Record the step on a batch of its own; nothing runs."""
        upscaled, target, noise = (tensor.clone() for tensor in batch.tensors)
        own = replace(batch, upscaled=upscaled, target=target, noise=noise)
        graph = torch.cuda.CUDAGraph()
        with self.threads.resting(), torch.cuda.graph(graph, stream=self.stream):
            made = self.step(own)
        return CapturedStep(graph, own, made)
