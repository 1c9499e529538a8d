"""CUDA graphs of the torch executor: steps of fixed shape, captured once and replayed.

A step reads static buffers and changes a clip's state in place, so its graph is the clip's own. A shape or a
ring slot that differs is another graph. Graphs of one `StepGraphs` share their memory, so they run one
after another; what runs beside them has its own. What a rank's step sends to others is part of its graph: all
ranks capture the same steps at the same time, and replay them so.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from flashvsr_trt.errors import DeviceError
from flashvsr_trt.kernels.calls import counted_calls, record_calls
from flashvsr_trt.model.communicator import ONE_PROCESS, Communicator, counted_apart
from flashvsr_trt.runtime.torch.copies import pin

Tensors = tuple[torch.Tensor, ...]

Step = Callable[..., Tensors]
"""Tensors on the device in and out; state that it carries changes in place."""


@dataclass(frozen=True)
class CapturedStep:
    """A graph, the buffers it reads and writes, how often it calls which operators, and bytes it sends."""

    graph: torch.cuda.CUDAGraph
    inputs: Tensors
    outputs: Tensors
    calls: Counter[str]
    sent: Counter[str]

    def replay(self, inputs: Tensors) -> Tensors:
        """The step on these inputs. The results are copies: other graphs may use the buffers' memory."""
        for buffer, value in zip(self.inputs, inputs, strict=True):
            buffer.copy_(pin(value, buffer.device), non_blocking=True)
        self.graph.replay()
        record_calls(self.calls)
        return tuple(output.clone() for output in self.outputs)


class StepGraphs:
    """The captured steps of one clip on one stream, by name; `communicator` is what they talk through."""

    def __init__(self, device: torch.device, communicator: Communicator = ONE_PROCESS) -> None:
        self.device, self.communicator = device, communicator
        self.pool = torch.cuda.graph_pool_handle()
        # Libraries keep a workspace per stream, and a graph remembers that of the one it was captured on.
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.captured: dict[str, CapturedStep] = {}

    def run(self, name: str, step: Step, inputs: Tensors) -> Tensors:
        """`step(*inputs)`: the first call of a name runs it and captures it, later ones replay.

        `inputs` are on any device. The step's first run also is what warms it up: kernels are compiled,
        workspaces allocated and ranks connected by then. Capturing runs nothing, so the state advances once.

        Raises:
            DeviceError: CUDA cannot capture the step.
        """
        if name in self.captured:
            self.communicator.sent.update(self.captured[name].sent)
            return self.captured[name].replay(inputs)
        if self.communicator.size > 1 and self.device.type == "cuda":
            # No transfer may be started while a graph of the same communicator is not done.
            torch.cuda.synchronize(self.device)
        buffers = tuple(value.to(self.device, copy=True) for value in inputs)
        outputs = step(*buffers)
        with counted_calls() as calls, counted_apart(self.communicator) as sent:
            try:
                graph, static_outputs = capture(step, buffers, self.pool, self.stream)
            except RuntimeError as error:
                raise DeviceError(
                    f"CUDA could not capture step {name}: {error}; use --no-cuda-graphs"
                ) from error
        self.captured[name] = CapturedStep(graph, buffers, static_outputs, calls, sent)
        return outputs


def capture(
    step: Step, buffers: Tensors, pool: Any, stream: torch.cuda.Stream | None
) -> tuple[torch.cuda.CUDAGraph, Tensors]:
    """A graph of `step(*buffers)` and its static outputs."""
    graph = torch.cuda.CUDAGraph()
    # Other threads of the process, which read and write video, may call CUDA meanwhile.
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        outputs = step(*buffers)
    return graph, outputs
