"""What stands in for CUDA graphs on a CPU: a replay runs the step on the buffers it was captured with."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from unittest import mock

import torch

from flashvsr_trt.kernels.calls import counted_calls
from flashvsr_trt.model.communicator import counted_apart
from flashvsr_trt.runtime.torch import graphs as torch_graphs


class RerunStep:
    """A graph of an executor's step: capturing runs it on a copy of the state, since a capture changes none.

    A replay counts neither calls nor bytes, as a graph's does not.
    """

    def __init__(self, step: partial, buffers: torch_graphs.Tensors) -> None:
        self.step, self.buffers = step, buffers
        state = copy.deepcopy(replace(step.args[0], graphs={}))
        self.outputs = list(step.func(state, *step.args[1:], *buffers))

    def replay(self) -> None:
        communicators = set(self.step.func.__self__.communicators.values())
        with ExitStack() as counters:
            for communicator in communicators:
                counters.enter_context(counted_apart(communicator))
            counters.enter_context(counted_calls())
            self.outputs[:] = self.step(*self.buffers)


@contextmanager
def rerun_instead_of_graphs() -> Iterator[list[str]]:
    """StepGraphs on a CPU; gives the names of the steps that went through them."""
    names: list[str] = []
    run = torch_graphs.StepGraphs.run

    def recorded(self, name, step, inputs):
        names.append(name)
        return run(self, name, step, inputs)

    def capture(step, buffers, pool, stream):
        graph = RerunStep(step, buffers)
        return graph, graph.outputs

    with (
        mock.patch.object(torch.cuda, "graph_pool_handle", return_value=(0, 0)),
        mock.patch.object(torch_graphs, "capture", capture),
        mock.patch.object(torch_graphs.StepGraphs, "run", recorded),
    ):
        yield names
