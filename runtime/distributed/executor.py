"""The executor of a job of several ranks: rank 0 says what is done, and every rank does its share.

Tensors stay where they were made. A session holds numbers for them, and every rank keeps its own under the
same number until the session lets go of it.
"""

import weakref
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np
import torch

from flashvsr_trt import __version__
from flashvsr_trt.config.presets import Preset
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import DeviceError, DistributedError
from flashvsr_trt.model.network import build_network
from flashvsr_trt.model.sharding import Sharding
from flashvsr_trt.model.weights.load import Weights, describe, load_weights, resolve_weights
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.distributed.group import Group, join_group
from flashvsr_trt.runtime.distributed.place import torchrun_place
from flashvsr_trt.runtime.distributed.shard import Shard
from flashvsr_trt.runtime.executor import Executor, ReadyFrames
from flashvsr_trt.runtime.request import ExecutorRequest
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.torch.device import choose_dtype, stream_memory


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
    attention: str


@dataclass(frozen=True)
class Command:
    """A call of a method of `Shard`; its results are kept under `made`, and `released` are dropped."""

    method: str
    arguments: tuple[Any, ...] = ()
    made: tuple[int, ...] = ()
    released: tuple[int, ...] = ()


@dataclass
class Work:
    """A rank's shard, and its shares of values by number."""

    shard: Shard
    shares: dict[int, Any] = field(default_factory=dict)

    def run(self, command: Command, payload: np.ndarray | None = None) -> Any:
        """Do this rank's part. `payload` is what only rank 0 has."""
        for number in command.released:
            del self.shares[number]
        arguments = [self._resolve(argument) for argument in command.arguments]
        if payload is not None:
            arguments.append(payload)
        result = getattr(self.shard, command.method)(*arguments)
        if command.made:
            results = result if isinstance(result, tuple) else (result,)
            self.shares.update(zip(command.made, results, strict=True))
        return result

    def _resolve(self, argument: Any) -> Any:
        if isinstance(argument, Share):
            return self.shares[argument.number]
        if isinstance(argument, tuple):
            return tuple(map(self._resolve, argument))
        return argument


class DistributedExecutor(Executor):
    """Rank 0's executor."""

    def __init__(self, shard: Shard) -> None:
        self.work, self.group, self.stream = Work(shard), shard.group, shard.stream
        self.numbers = count()
        self.released: list[int] = []

    def new_state(self) -> Remote:
        (state,) = self._make(1, "new_state")
        return state

    def reset_state(self, state: Remote) -> None:
        self._call(Command("reset_state", self._shares((state,))))

    def encode(self, frames: np.ndarray, first: bool, state: Remote) -> tuple[Remote, Remote]:
        condition, tokens = self._make(2, "encode", first, state, payload=frames)
        return condition, tokens

    def dit(
        self,
        noise: np.ndarray,
        tokens: list[Remote],
        rope: tuple[np.ndarray, np.ndarray],
        step: RingStep,
        state: Remote,
    ) -> list[Remote]:
        arguments = (tuple(tokens), rope, step, state)
        return self._make(len(tokens), "dit", *arguments, payload=noise)

    def start_decode(self, latent: Remote, condition: Remote, state: Remote) -> ReadyFrames:
        return ReadyFrames(self._call(Command("decode", self._shares((latent, condition, state)))))

    def stage_seconds(self) -> dict[str, float]:
        """See `Executor.stage_seconds`: rank 0's."""
        return self.work.shard.clock.read()

    def report(self) -> list[dict[str, Any]]:
        """Each rank's report, see `Shard.report`."""
        return self._call(Command("report"))

    def describe(self) -> dict[str, Any]:
        device, on_gpu = self.group.device, self.group.device.type == "cuda"
        return {
            "backend": "torch",
            "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
            "dtype": str(self.work.shard.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "attention": self.work.shard.attention,
            "ranks": self.group.size,
            "collectives": torch.distributed.get_backend(),
        }

    def _make(
        self, results: int, method: str, *arguments: Any, payload: np.ndarray | None = None
    ) -> list[Remote]:
        """Call a method whose results stay on the ranks; a session holds the numbers."""
        made = [Remote(next(self.numbers)) for _ in range(results)]
        for remote in made:
            weakref.finalize(remote, self.released.append, remote.number).atexit = False
        numbers = tuple(remote.number for remote in made)
        self._call(Command(method, self._shares(arguments), numbers), payload)
        return made

    def _call(self, command: Command, payload: np.ndarray | None = None) -> Any:
        released, self.released[:] = tuple(self.released), []
        command = Command(command.method, command.arguments, command.made, released)
        self.group.working = True
        try:
            self.group.tell(command)
            result = self.work.run(command, payload)
        except Exception as error:
            raise self.group.failure(error) from error
        self.group.working = False
        return result

    def _shares(self, value: Any) -> Any:
        if isinstance(value, Remote):
            return Share(value.number)
        if isinstance(value, tuple):
            return tuple(map(self._shares, value))
        return value


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
    notify(describe(resolve_weights(request.weights, request.stream.preset.network)))
    group.working = True
    try:
        order = Open(request.stream, str(dtype).removeprefix("torch."), request.torch.attention)
        group.tell(order)
        shard = open_shard(group, order, request.stream.preset, request.weights)
    except Exception as error:
        raise group.failure(error) from error
    group.working = False
    return DistributedExecutor(shard)


def serve(group: Group, preset: Preset, weights: str | None) -> None:
    """Every other rank: open its share of what rank 0 runs, and work until rank 0 is done.

    `preset` and `weights` are this rank's own options.
    """
    work: Work | None = None
    while (command := group.hear()) is not None:
        if isinstance(command, Open):
            work = Work(open_shard(group, command, preset, weights))
        else:
            work.run(command)


def open_shard(group: Group, order: Open, preset: Preset, weights_spec: str | None) -> Shard:
    """Load the weights and agree with the other ranks. `preset` is this rank's own option.

    Raises:
        DistributedError: on every rank, if they differ or one failed.
        FlashVSRError: on a rank that failed itself.
    """
    dtype = choose_dtype(order.dtype, group.device)
    failure: Exception | None = None
    outcome: Identity | str
    try:
        sharding = Sharding(order.stream, group.size)
        check_share(sharding, group, dtype)
        network = order.stream.preset.network
        weights = load_weights(resolve_weights(weights_spec, network), network, dtype)
        outcome = identity(preset, weights, group.device)
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
    built = build_network(network, weights, group.device, dtype)
    return Shard(built, sharding, group, order.attention)


def identity(preset: Preset, weights: Weights, device: torch.device) -> Identity:
    """Of this rank. Presets of one name that differ in their numbers are told apart too."""
    return Identity(
        version=__version__,
        torch=torch.__version__,
        preset=f"{preset.name} ({preset.network}, {preset.attention})",
        weights=f"{weights.source} ({weights.fingerprint[:16]})",
        device=device.type if device.type == "cpu" else torch.cuda.get_device_name(device),
    )


def check_share(sharding: Sharding, group: Group, dtype: torch.dtype) -> None:
    """Raises DeviceError if this rank's share does not fit its GPU: all weights, and a part of the rest."""
    if group.device.type != "cuda":
        return
    estimate = stream_memory(sharding.stream, dtype)
    needed = estimate.weights + (estimate.state + estimate.working) // group.size
    free = torch.cuda.mem_get_info(group.device)[0]
    if needed > free:
        raise DeviceError(
            f"a share of {needed / 2**30:.1f} GiB does not fit the {free / 2**30:.1f} GiB that are free on "
            f"{group.device}; use more ranks, a smaller input or scale, or a narrower --dtype"
        )
