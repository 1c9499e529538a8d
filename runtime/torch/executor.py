"""The PyTorch executor: the reference every other backend is compared with, on CPU or CUDA.

One process and each of several ranks run it. What a rank has of state and inputs is `Sharding`'s to say.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch

from flashvsr_trt.config.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.config.signatures import (
    DECODE,
    DIT,
    ENCODE,
    Role,
    StreamConfig,
    stage_of,
    stage_signatures,
)
from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.kernels.calls import counted_calls, reference_kernels
from flashvsr_trt.memory import Ring
from flashvsr_trt.model.communicator import ONE_PROCESS, Communicator
from flashvsr_trt.model.fp8_cache import widened_layers
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.sharding import Sharding
from flashvsr_trt.model.stages import Decode, Denoise, Encode
from flashvsr_trt.runtime.executor import DeviceTensors, GraphExecutor, HostArrays, PendingFrames
from flashvsr_trt.runtime.request import TorchOptions
from flashvsr_trt.runtime.ring import RingStep
from flashvsr_trt.runtime.torch.clock import StageClock
from flashvsr_trt.runtime.torch.copies import caller_stream, hand_over, upload
from flashvsr_trt.runtime.torch.device import choose_cuda_graphs
from flashvsr_trt.runtime.torch.device_memory import kept_ring
from flashvsr_trt.runtime.torch.frames import TorchArrays, give_frames
from flashvsr_trt.runtime.torch.graphs import Step, StepGraphs, Tensors
from flashvsr_trt.runtime.torch.rows import FRAMES, INPUTS, gather_rows, scatter_rows
from flashvsr_trt.runtime.torch.state import StateMaker, TorchState

ALONE: Mapping[str, Communicator] = dict.fromkeys((ENCODE, DIT, DECODE, INPUTS, FRAMES), ONE_PROCESS)
"""The communicators of a process alone."""


class TorchExecutor(GraphExecutor):
    """Runs the stages of `flashvsr_trt.model`.

    Args:
        communicators: of each stage, of INPUTS and of FRAMES, one of its own where there are several ranks.

    Raises:
        UsageError: CUDA graphs were asked for on another device, or more ranks than can share the stream.
    """

    overlaps = True

    def __init__(
        self,
        network: Network,
        stream: StreamConfig,
        options: TorchOptions | None = None,
        communicators: Mapping[str, Communicator] = ALONE,
    ) -> None:
        options = options or TorchOptions()
        self.stream, self.options, self.communicators = stream, options, communicators
        self.rank = communicators[DIT].rank
        self.sharding = Sharding(stream, communicators[DIT].size)
        self.signatures = stage_signatures(stream)
        self.device, self.dtype = network.device, network.dtype
        ring = kept_ring(options.kv_cache, stream.preset, self.device)
        if ring.has_scales and self.sharding.size > 1:
            raise UsageError("--kv-cache fp8 is for one GPU; leave it out, or --gpus")
        self.cuda_graphs = choose_cuda_graphs(options, self.device)
        self.encode_stage = Encode(network, stream, communicators[ENCODE])
        self.dit_stage = Denoise(network, stream, communicators[DIT])
        self.decode_stage = Decode(network, stream, communicators[DECODE])
        sparse_alone = stream.preset.attention.sparse_ratio is not None and self.sharding.size == 1
        if ring is Ring.COMPUTE and self.dit_stage.dit.fp8_attention and sparse_alone:
            ring = Ring.ATTENDED
        self.maker = StateMaker(stream, self.sharding, self.rank, self.device, self.dtype, ring)
        if options.compile:
            # The DiT is made of kernels already; these two are what Inductor has something to fuse in.
            self.encode_stage = torch.compile(self.encode_stage, dynamic=False)
            decoder: Any = torch.compile(network.decoder, dynamic=False)
            self.decode_stage.decoder = decoder
        self.clock = StageClock(self.device)
        # Streams of their own: the next unit's encoding and the last one's decoding fill what a DiT step's
        # small kernels leave of the GPU.
        self.encoding, self.decoding = (
            torch.cuda.Stream(self.device) if self.device.type == "cuda" else None for _ in range(2)
        )
        self.arrays = TorchArrays(self.device, self.encoding)
        self.kernel_calls: Counter[str] = Counter()

    def new_state(self) -> TorchState:
        """Zeroed state, allocated once per clip.

        Raises:
            DeviceError: the device has not enough memory for it.
        """
        if self.sharding.size > 1 and self.device.type == "cuda":
            # First steps are not replayed: none may start beside an earlier clip's graphs (`StepGraphs.run`).
            torch.cuda.synchronize(self.device)
        try:
            encode, memory = self.maker.tails()
            ring = [self.maker.layer() for _ in range(self.stream.preset.network.dit.layers)]
            state = TorchState(encode, ring, memory, self._graphs(), self.maker.place())
        except torch.OutOfMemoryError as error:
            raise DeviceError(f"{self.device} has too little memory for this size: {error}") from error
        hand_over(state.encode, caller_stream(self.device), self.encoding)
        return state

    def run_in_turn(self) -> None:
        """From now on stages run one after another without CUDA graphs: they share one working memory."""
        self.cuda_graphs, self.encoding, self.decoding = False, None, None
        self.arrays = TorchArrays(self.device, None)

    def reset_state(self, state: TorchState) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        with torch.inference_mode():
            for tensor in state.tensors():
                tensor.zero_()
        hand_over(state.encode, caller_stream(self.device), self.encoding)

    def run_graph(
        self, graph: str, arrays: HostArrays, tensors: DeviceTensors, state: TorchState, step: RingStep | None
    ) -> dict[str, Any]:
        """See `GraphExecutor.run_graph`. Encoding reads nothing of a DiT step, and waits for none.

        Of several ranks all run the same graphs, one after another; arrays of SCATTERED are rank 0's alone,
        and frames come out there, None elsewhere.
        """
        signature, stage = self.signatures[graph], stage_of(graph)
        if stage == DECODE:
            hand_over([*tensors.values(), *state.memory], caller_stream(self.device), self.decoding)
        with self.within(stage):
            given: dict[str, Any] = dict(tensors) | {
                name: torch.as_tensor(array) for name, array in arrays.items()
            }
            if step:
                given["tokens"] = torch.cat(given["tokens"])
            specs = [spec for spec in signature.inputs if spec.role is Role.INPUT]
            share = partial(scatter_rows, self.communicators[INPUTS], self.sharding)
            inputs = tuple(share(spec, given.get(spec.name), self.device) for spec in specs)
            name = f"{stage} into slot {step.slots.start}" if step else graph
            call, graphs = self._call(graph, state, step), state.graphs.get(stage)
            # Only the steady step comes again: while the ring fills, every step is another one.
            if graphs and (step is None or step.is_steady):
                outputs = graphs.run(name, call, inputs)
            else:
                outputs = call(*(upload(value, self.device) for value in inputs))
            made: dict[str, Any] = dict(zip((spec.name for spec in signature.results), outputs, strict=True))
            if graph == DECODE:
                made["frames"] = gather_rows(self.communicators[FRAMES], self.sharding, made["frames"])
        if stage == ENCODE:
            hand_over(made.values(), self.encoding, caller_stream(self.device))
        return made | {"latent": list(made["latent"].split(UNIT_LATENT_FRAMES))} if step else made

    def download(self, frames: torch.Tensor) -> torch.Tensor:
        """See `GraphExecutor.download`. A tile's frames stay: they are blended where they are."""
        return frames

    def give(self, frames: torch.Tensor, on_device: bool) -> PendingFrames:
        """See `GraphExecutor.give`. A copy is on its way at once, behind decoding."""
        with ExitStack() as stack:
            if self.device.type == "cuda":
                stack.enter_context(torch.cuda.device(self.device))
                stack.enter_context(torch.cuda.stream(self.decoding))
            return give_frames(frames, on_device)

    def _call(self, graph: str, state: TorchState, step: RingStep | None) -> Step:
        """What a graph calls; state changes in place."""
        if stage_of(graph) == DECODE:
            decode = self.decode_stage if graph == DECODE else self.decode_stage.decode
            return partial(self._decode, state, decode)
        return partial(self._denoise, state, step) if step else partial(self._encode, state)

    def stage_seconds(self) -> dict[str, float]:
        return self.clock.read()

    def describe(self) -> dict[str, Any]:
        """See `Executor.describe`. `kernel_calls`: how often each operator ran as what, replays included."""
        on_gpu = self.device.type == "cuda"
        return {
            "backend": "torch",
            "device": torch.cuda.get_device_name(self.device) if on_gpu else "cpu",
            "dtype": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "attention": self.options.attention,
            "precision": self.options.precision,
            "cuda_graphs": self.cuda_graphs,
            "compile": self.options.compile,
            "kv_cache": self.options.kv_cache,
            "kernel_calls": dict(self.kernel_calls),
        }

    def _encode(self, state: TorchState, frames: torch.Tensor, first: torch.Tensor) -> Tensors:
        condition, tokens, *following = self.encode_stage(frames, first, *state.encode)
        overwrite(state.encode, following)
        return condition, tokens

    def _denoise(
        self,
        state: TorchState,
        step: RingStep,
        noise: torch.Tensor,
        tokens: torch.Tensor,
        time_cos: torch.Tensor,
        time_sin: torch.Tensor,
        slot_valid: torch.Tensor,
    ) -> Tensors:
        inputs = noise, tokens, time_cos, time_sin, slot_valid
        ring = widened_layers(state.ring, state.place, step.seen, step.slots) if state.place else state.ring
        latent, _ = self.dit_stage(*inputs, ring, step.slots, step.filled)
        return (latent,)

    def _decode(
        self, state: TorchState, decode: Callable, latent: torch.Tensor, condition: torch.Tensor
    ) -> Tensors:
        frames, following = decode(latent, condition, state.memory)
        overwrite(state.memory, following)
        return (frames,)

    def _graphs(self) -> dict[str, StepGraphs]:
        # A memset behind a transfer forks a graph. A rank's decoder would have dozens of branches, and those
        # that wait hold up other stages' streams in the hardware's queues.
        captured = (ENCODE, DIT, DECODE) if self.sharding.size == 1 else (ENCODE, DIT)
        stages = captured if self.cuda_graphs else ()
        return {stage: StepGraphs(self.device, self.communicators[stage]) for stage in stages}

    @contextmanager
    def within(self, stage: str) -> Iterator[None]:
        """What every stage runs in: no gradients, the executor's device, its kernels, clock and counter.

        On the stage's stream. What the stage reads was handed over to it before its clock starts.
        """
        stream = {ENCODE: self.encoding, DECODE: self.decoding}.get(stage)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.device.type == "cuda":
                stack.enter_context(torch.cuda.device(self.device))
            if stream:
                stack.enter_context(torch.cuda.stream(stream))
            if self.options.attention == "reference":
                stack.enter_context(reference_kernels())
            stack.enter_context(self.clock.measure(stage))
            calls = stack.enter_context(counted_calls())
            try:
                yield
            except torch.OutOfMemoryError as error:
                reason = str(error).split(". GPU", 1)[0]
                raise DeviceError(
                    f"{self.device} ran out of memory in {stage} ({reason}); give a smaller --tile, input or "
                    "scale, or free what others hold of it"
                ) from error
            except errors_of_compiling(self.options) as error:
                reason = str(error).strip().splitlines()[0]
                raise DeviceError(
                    f"torch.compile cannot compile {stage} here ({reason}); run without --compile"
                ) from error
            self.kernel_calls.update(calls)


def errors_of_compiling(options: TorchOptions) -> tuple[type[Exception], ...]:
    """What torch.compile raises. Without it none: importing the compiler takes half as long as torch."""
    if not options.compile:
        return ()
    from torch._dynamo.exc import TorchDynamoException

    return (TorchDynamoException,)


def overwrite(carried: list[torch.Tensor], following: list[torch.Tensor]) -> None:
    """The next state takes the place of the old one."""
    for old, new in zip(carried, following, strict=True):
        old.copy_(new)
