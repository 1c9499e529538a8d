"""The executor of a job of several ranks: rank 0 says which graph is run, and every rank runs its share.

Tensors stay where they were made. A session holds numbers for them, and every rank keeps its own under the
same number until the session lets go of it. On GPUs nobody waits for a graph that was told: the ranks' hosts
run ahead of their GPUs, as a single process does.
"""

import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import count
from types import MappingProxyType
from typing import Any

import torch

from flashvsr_trt import __version__
from flashvsr_trt.config.presets import Preset
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import DistributedError
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.model.sharding import Sharding
from flashvsr_trt.model.weights.load import Weights, describe, load_weights, resolve_weights
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.distributed.group import Group, join_group
from flashvsr_trt.runtime.distributed.memory import check_share
from flashvsr_trt.runtime.distributed.place import torchrun_place
from flashvsr_trt.runtime.distributed.report import rank_report
from flashvsr_trt.runtime.executor import DeviceTensors, GraphExecutor, HostArrays, PendingFrames
from flashvsr_trt.runtime.frames import NumpyArrays
from flashvsr_trt.runtime.request import ExecutorRequest, TorchOptions
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.torch.device import check_kernels, choose_cuda_graphs, choose_dtype
from flashvsr_trt.runtime.torch.device_memory import storage_of
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.precision import check_fp8, fp8_lines, fp8_products
from flashvsr_trt.runtime.torch.rows import SCATTERED
from flashvsr_trt.runtime.torch.state import TorchState


class Remote:
    """A value of which every rank holds its share, under `number`."""

    def __init__(self, number: int) -> None:
        self.number = number


@dataclass(frozen=True)
class Share:
    """In a command: the value of that number."""

    number: int


@dataclass(frozen=True)
class Open:
    """Rank 0's first command: what is run until the next of its kind."""

    stream: StreamConfig
    dtype: str
    options: TorchOptions


@dataclass(frozen=True)
class Command:
    """A call of a method of every rank's executor, or its report; shares `released` are dropped before."""

    method: str
    arguments: tuple[Any, ...] = ()
    released: tuple[int, ...] = ()


REPORT = "report"


class Work:
    """A rank's executor, and its shares of values by number: what is made is numbered alike on all ranks."""

    def __init__(self, executor: TorchExecutor, group: Group) -> None:
        self.executor, self.group = executor, group
        self.shares: dict[int, Any] = {}
        self.numbers = count()
        # A group would wait for ever for CUDA graphs that send through it.
        group.before_leaving = self.shares.clear

    def run(self, command: Command, whole: HostArrays = MappingProxyType({})) -> Any:
        """Do this rank's part; the numbers of its results, as the method gave them, or all ranks' reports.

        `whole` are a graph's arrays that only rank 0 has.
        """
        for number in command.released:
            del self.shares[number]
        if command.method == REPORT:
            states = [share for share in self.shares.values() if isinstance(share, TorchState)]
            return self.group.share(rank_report(self.executor, states))
        arguments = each(command.arguments, self._resolved)
        if whole:
            graph, arrays, *others = arguments
            arguments = graph, arrays | whole, *others
        return each(getattr(self.executor, command.method)(*arguments), self._keep)

    def _resolved(self, argument: Any) -> Any:
        return self.shares[argument.number] if isinstance(argument, Share) else argument

    def _keep(self, result: Any) -> int:
        number = next(self.numbers)
        self.shares[number] = result
        return number


def each(value: Any, change: Callable[[Any], Any]) -> Any:
    """A value, or each of those in dicts, lists and tuples, changed."""
    if isinstance(value, dict):
        return {name: each(part, change) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(each(part, change) for part in value)
    return change(value)


class DistributedExecutor(GraphExecutor):
    """Rank 0's executor: tells the others what is run, and does its own part."""

    overlaps = True
    arrays = NumpyArrays(is_device=False)

    def __init__(self, work: Work) -> None:
        self.work, self.group, self.stream = work, work.group, work.executor.stream
        self.released: list[int] = []

    def new_state(self) -> Remote:
        return each(self._call("new_state"), self._remote)

    def reset_state(self, state: Remote) -> None:
        each(self._call("reset_state", state), self._remote)

    def run_graph(
        self, graph: str, arrays: HostArrays, tensors: DeviceTensors, state: Remote, step: RingStep | None
    ) -> DeviceTensors:
        """See `GraphExecutor.run_graph`. Small arrays are told, the others shared by rows (`torch.rows`)."""
        whole = {name: array for name, array in arrays.items() if name in SCATTERED}
        told = {name: array for name, array in arrays.items() if name not in SCATTERED}
        made = self._call("run_graph", graph, told, dict(tensors), state, step, whole=whole)
        return each(made, self._remote)

    def give(self, frames: Remote, on_device: bool) -> PendingFrames:
        """See `GraphExecutor.give`: from this rank's GPU, where all rows are."""
        return self.work.executor.give(self.work.shares[frames.number], on_device)

    def stage_seconds(self) -> dict[str, float]:
        """See `Executor.stage_seconds`: rank 0's."""
        return self.work.executor.stage_seconds()

    def report(self) -> list[dict[str, Any]]:
        """Each rank's `rank_report`."""
        return self._call(REPORT)

    def describe(self) -> dict[str, Any]:
        """See `Executor.describe`; `kernel_calls` are rank 0's."""
        ranks = {"ranks": self.group.size, "collectives": torch.distributed.get_backend()}
        return self.work.executor.describe() | ranks

    def _call(self, method: str, *arguments: Any, whole: HostArrays = MappingProxyType({})) -> Any:
        released, self.released[:] = tuple(self.released), []
        told = each(arguments, lambda value: Share(value.number) if isinstance(value, Remote) else value)
        command = Command(method, told, released)
        self.group.working = True
        try:
            self.group.tell(command)
            made = self.work.run(command, whole)
        except Exception as error:
            raise self.group.failure(error) from error
        self.group.working = False
        return made

    def _remote(self, number: int) -> Remote:
        """What a session holds: every rank lets go of its share when the session has."""
        remote = Remote(number)
        weakref.finalize(remote, self.released.append, number).atexit = False
        return remote


@dataclass(frozen=True)
class Identity:
    """What must be the same on every rank; the values are what a message shows."""

    version: str
    torch: str
    preset: str
    weights: str
    device: str

    def difference(self, other: "Identity") -> str | None:
        """The first thing that differs, in words."""
        for name, value in vars(self).items():
            if value != vars(other)[name]:
                return f"{name} {vars(other)[name]}, and rank 0 has {value}"
        return None


def open_distributed_executor(request: ExecutorRequest, notify: Notify) -> DistributedExecutor:
    """Rank 0's part of opening: tell the others what is run, and check that all would run the same.

    An executor serves until the next one is opened.

    Raises:
        UsageError: the ranks cannot share this stream, or an unknown device or dtype.
        DistributedError: a rank differs from this one, or failed.
        DeviceError, WeightsError: as this rank finds.
    """
    group = join_group(request.device, torchrun_place())
    dtype = choose_dtype(request.dtype, group.device)
    # Before anyone is told: the others would only find the same.
    Sharding(request.stream, group.size)
    choose_cuda_graphs(request.torch, group.device)
    check_fp8(request.torch, request.stream, group.size)
    if group.working:
        raise DistributedError("the ranks stopped at what failed before; start again for what is left")
    order = Open(request.stream, str(dtype).removeprefix("torch."), request.torch)
    key = network_key(order, request.weights)
    is_new = key not in group.loaded
    if is_new:
        notify(describe(resolve_weights(request.weights, request.stream.preset.network)))
    group.working = True
    try:
        group.tell(order)
        work = open_work(group, order, request.stream.preset, request.weights)
    except Exception as error:
        raise group.failure(error) from error
    group.working = False
    network, fingerprint = request.stream.preset.network, group.loaded[key].fingerprint
    for line in fp8_lines(request.torch, network, group.device, fingerprint) if is_new else ():
        notify(line)
    return DistributedExecutor(work)


def serve(group: Group, preset: Preset, weights: str | None) -> None:
    """Every other rank: open its share of what rank 0 runs, and work until rank 0 is done.

    `preset` and `weights` are this rank's own options.
    """
    work: Work | None = None
    while (command := group.hear()) is not None:
        if isinstance(command, Open):
            work = open_work(group, command, preset, weights)
        elif work:
            work.run(command)


def open_work(group: Group, order: Open, preset: Preset, weights_spec: str | None) -> Work:
    """Load the weights and agree with the other ranks. `preset` is this rank's own option.

    Raises:
        DistributedError: on every rank, if they differ or one failed.
        FlashVSRError: on a rank that failed itself.
    """
    failure: Exception | None = None
    outcome: Identity | str
    network, key = order.stream.preset.network, network_key(order, weights_spec)
    let_go_of_shares(group)
    try:
        sharding = Sharding(order.stream, group.size)
        if group.device.type == "cuda" and order.options.attention == "auto":
            check_kernels(group.device)
        dtype = choose_dtype(order.dtype, group.device)
        fp8 = fp8_products(order.options, group.device, dtype, network)
        if group.device.type == "cuda":
            storage = storage_of(network, dtype, fp8=fp8)
            check_share(sharding, group.rank, storage, group.device, loaded=key in group.loaded)
        loaded = group.loaded.get(key) or load_network(group, order, preset, weights_spec, fp8)
        outcome = loaded.identity
    except Exception as error:
        failure, outcome = error, f"{error}".splitlines()[0]
    outcomes = group.share(outcome)
    if failure:
        raise failure
    for rank, other in enumerate(outcomes):
        if isinstance(other, str):
            raise DistributedError(f"rank {rank} cannot start: {other}")
        if differs := outcomes[0].difference(other):
            raise DistributedError(f"rank {rank} has {differs}: start every rank with the same")
    group.loaded[key] = loaded
    return Work(TorchExecutor(loaded.network, order.stream, order.options, group.communicators), group)


@dataclass(frozen=True)
class Loaded:
    """A network on this rank's device, and what every other rank's is compared with."""

    network: Network
    identity: Identity
    fingerprint: str
    """Of the weights."""


def network_key(order: Open, weights_spec: str | None) -> Hashable:
    """What decides a rank's network."""
    return (
        order.stream.preset,
        order.dtype,
        order.options.precision,
        order.options.calibration,
        weights_spec,
    )


def load_network(
    group: Group, order: Open, preset: Preset, weights_spec: str | None, fp8: Callable[[str], bool] | None
) -> Loaded:
    dtype, network = choose_dtype(order.dtype, group.device), order.stream.preset.network
    weights = load_weights(resolve_weights(weights_spec, network), network, dtype)
    found = identity(preset, weights, group.device)
    return Loaded(build_network(network, weights, group.device, dtype, fp8), found, weights.fingerprint)


def let_go_of_shares(group: Group) -> None:
    """Of the stream before: two streams' state may not fit."""
    if group.device.type == "cuda":
        torch.cuda.synchronize(group.device)
    group.before_leaving()


def identity(preset: Preset, weights: Weights, device: torch.device) -> Identity:
    """Of this rank. Presets of one name that differ in their numbers are told apart too."""
    return Identity(
        version=__version__,
        torch=torch.__version__,
        preset=f"{preset.name} ({preset.network}, {preset.attention})",
        weights=f"{weights.source} ({weights.fingerprint[:16]})",
        device=device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
    )
