"""What goes into and comes out of each stage: the one declaration that export, engines and runtime read.

A stage is a pure function of (inputs, state) -> (outputs, next state). Shapes are outermost axis first and
time-first: frames [T, H, W, 3] as bytes, [T, C, h, w] inside.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import (
    LATENT_CHANNELS,
    LATENT_STRIDE,
    TOKEN_STRIDE,
    UNIT_FRAMES,
    UNIT_LATENT_FRAMES,
    NetworkConfig,
    Preset,
    Schedule,
)
from flashvsr_trt.config.rope import axis_dims

ENCODE, DIT, DIT_FIRST, DECODE = "encode", "dit", "dit_first", "decode"
"""The graphs of a stream; DIT_FIRST is the DiT over the units of the first step, where these are several."""

DECODE_TILE = "decode_tile"
"""Of a tile's stream as well: DECODE without colour fix and bytes, which blended tiles get as a whole."""

PIXEL_CHANNELS = 3 * TOKEN_STRIDE * TOKEN_STRIDE
"""Channels of a pixel-unshuffled frame, the projector's input."""

PROJECTOR_TAIL = 2
"""Input frames of each causal convolution that are carried to the next call."""

COMPUTE = "compute"
"""The dtype the network runs in: float32, bfloat16 or float16, chosen when it is loaded or built."""

TOKENS_LAYOUT = "(frame row column) channel"
CACHE_LAYOUT = "unit (window frame row column) head channel"
"""Window order: the tokens of one attention window follow each other."""

DTYPE_BYTES = {"uint8": 1, "bool": 1, "float16": 2, "bfloat16": 2, "float32": 4}


UPSAMPLERS = ("pil", "torch")
"""`pil`: as the official script (a = -0.5, 8 bits). `torch`: as FlashDreams (a = -0.75, unclamped)."""

COLOR_FIXES = ("adain", "wavelet", "none")


@dataclass(frozen=True)
class StreamConfig:
    """Everything that decides the stages' graphs, weights aside."""

    preset: Preset
    geometry: Geometry
    schedule: Schedule
    upsampler: str = UPSAMPLERS[0]
    color_fix: str = COLOR_FIXES[0]

    @property
    def is_tile(self) -> bool:
        """Whether its frames are tiles, cut from frames that are upscaled already."""
        return self.geometry.scale == 1

    @property
    def scale_word(self) -> str:
        """The scale, for names: "2x"; "tile" where tiles of frames of any scale run."""
        return "tile" if self.is_tile else f"{self.geometry.scale}x"


class Role(StrEnum):
    """What a tensor is to the stage that it goes into or comes out of."""

    INPUT = "input"
    """Another one at every call."""
    STATE = "state"
    """Carried from call to call, and replaced whole by the output that becomes it."""
    RING = "ring"
    """Carried as well; outputs become the slots of it, along its first axis, that the caller chose."""
    OUTPUT = "output"


@dataclass(frozen=True)
class TensorSpec:
    """A named tensor of a stage.

    Attributes:
        dtype: a numpy name, or COMPUTE.
        layout: names the axes.
        made_by: of an input, the stage whose output of the same name it is; None where the host gives it.
        becomes: of an output, the state or ring tensor that it is from the next call on; None for a result.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    role: Role = Role.INPUT
    made_by: str | None = None
    becomes: "TensorSpec | None" = None

    @property
    def from_host(self) -> bool:
        """Whether the host gives it to every call."""
        return self.role is Role.INPUT and self.made_by is None

    def size_bytes(self, compute: str) -> int:
        """Bytes of the tensor when the network runs in dtype `compute`."""
        return math.prod(self.shape) * DTYPE_BYTES[compute if self.dtype == COMPUTE else self.dtype]


@dataclass(frozen=True)
class StageSignature:
    """A stage's inputs and outputs, and its state, which comes out in the same shapes.

    `name` is also the graph's: a stage with two shapes has two graphs.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    state: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @property
    def graph_inputs(self) -> tuple[TensorSpec, ...]:
        """All tensors that go into the stage's graph, in order."""
        return self.inputs + self.state

    @property
    def graph_outputs(self) -> tuple[TensorSpec, ...]:
        """All tensors that come out, in order; names are unique in a graph, so state is called `next_...`."""
        following = (
            replace(spec, name=f"next_{spec.name}", role=Role.OUTPUT, becomes=spec) for spec in self.state
        )
        return *self.outputs, *following

    @property
    def carried(self) -> tuple[TensorSpec, ...]:
        """What is kept from call to call: state, and the ring."""
        return tuple(spec for spec in self.graph_inputs if spec.role is not Role.INPUT)

    @property
    def results(self) -> tuple[TensorSpec, ...]:
        """The outputs that are for another stage or for the host."""
        return tuple(spec for spec in self.outputs if spec.becomes is None)


def carried_tensors(signatures: Mapping[str, StageSignature]) -> tuple[TensorSpec, ...]:
    """State and ring of a whole stream, each once, however many graphs read it."""
    return tuple({spec.name: spec for graph in signatures.values() for spec in graph.carried}.values())


def stage_of(graph: str) -> str:
    """The stage that a graph runs, for times and counts by stage."""
    return {DIT_FIRST: DIT, DECODE_TILE: DECODE}.get(graph, graph)


def encode_signature(stream: StreamConfig) -> StageSignature:
    """8 LR frames -> the decoder's condition and the DiT's LR tokens of one unit."""
    geometry, network = stream.geometry, stream.preset.network
    rows, columns = geometry.tokens
    hidden = network.projector.hidden[0]
    state = [
        _state("pixel_tail", COMPUTE, (PROJECTOR_TAIL, PIXEL_CHANNELS, rows, columns), "T C h w"),
        _state("hidden_tail", COMPUTE, (PROJECTOR_TAIL, hidden, rows, columns), "T C h w"),
    ]
    if stream.schedule.lookahead:
        tail_shape = (stream.schedule.lookahead, 3, *geometry.target)
        state.append(_state("condition_tail", "float32", tail_shape, "T C H W"))
    return StageSignature(
        name=ENCODE,
        inputs=(
            TensorSpec("frames", "uint8", (UNIT_FRAMES, geometry.height, geometry.width, 3), "T H W C"),
            TensorSpec("first", "bool", (), "scalar"),
        ),
        state=tuple(state),
        outputs=(
            _result(_condition(geometry)),
            _result(_tokens(stream, 1)),
        ),
    )


def cache_specs(
    stream: StreamConfig, layer: int, units: int, prefix: str, role: Role = Role.RING
) -> tuple[TensorSpec, ...]:
    """Keys, values and window means of one layer's cache of `units` units, in window order."""
    geometry, config = stream.geometry, stream.preset.network.dit
    heads = (config.heads, config.head_dim)
    tokens, windows = (units, geometry.unit_tokens, *heads), (units, geometry.unit_windows, *heads)
    return (
        TensorSpec(f"{prefix}_keys.{layer}", COMPUTE, tokens, CACHE_LAYOUT, role),
        TensorSpec(f"{prefix}_values.{layer}", COMPUTE, tokens, CACHE_LAYOUT, role),
        TensorSpec(f"{prefix}_key_means.{layer}", "float32", windows, "unit window head channel", role),
    )


def dit_signature(stream: StreamConfig, units: int) -> StageSignature:
    """Noise and tokens of `units` units -> their latents, and the K/V that goes into the ring.

    The ring is an input and not a state: the caller owns it and puts the new K/V into the slots it chose.
    """
    geometry, attention, config = stream.geometry, stream.preset.attention, stream.preset.network.dit
    latent_frames = units * UNIT_LATENT_FRAMES
    pairs = axis_dims(config.head_dim)[0] // 2
    layers = range(config.layers)
    ring = [spec for layer in layers for spec in cache_specs(stream, layer, attention.ring_slots, "ring")]
    new = [spec for layer in layers for spec in cache_specs(stream, layer, units, "new", Role.OUTPUT)]
    return StageSignature(
        name=DIT if units == 1 else DIT_FIRST,
        inputs=(
            _latent("noise", geometry, latent_frames),
            replace(_tokens(stream, units), made_by=ENCODE),
            TensorSpec("time_cos", "float32", (latent_frames, pairs), "frame pair"),
            TensorSpec("time_sin", "float32", (latent_frames, pairs), "frame pair"),
            TensorSpec("slot_valid", "bool", (attention.ring_slots,), "slot"),
            *ring,
        ),
        state=(),
        outputs=(
            _result(_latent("latent", geometry, latent_frames)),
            *(replace(spec, becomes=kept) for spec, kept in zip(new, ring, strict=True)),
        ),
    )


def decode_signature(stream: StreamConfig) -> StageSignature:
    """Latents and condition of one unit -> 8 frames."""
    geometry = stream.geometry
    return StageSignature(
        name=DECODE,
        inputs=(
            replace(_latent("latent", geometry, UNIT_LATENT_FRAMES), made_by=DIT),
            replace(_condition(geometry), made_by=ENCODE),
        ),
        state=tuple(
            _state(f"memory.{block}", COMPUTE, shape, "T C h w")
            for block, shape in enumerate(_memory_shapes(stream.preset.network, geometry))
        ),
        outputs=(_result(TensorSpec("frames", "uint8", (UNIT_FRAMES, *geometry.target, 3), "T H W C")),),
    )


def decode_tile_signature(stream: StreamConfig) -> StageSignature:
    """As DECODE, with the decoder's own frames, about 0 to 1."""
    frames = TensorSpec("frames", "float32", (UNIT_FRAMES, 3, *stream.geometry.target), "T C H W")
    return replace(decode_signature(stream), name=DECODE_TILE, outputs=(_result(frames),))


def stage_signatures(stream: StreamConfig) -> dict[str, StageSignature]:
    """Every graph that a stream needs, by name, in the order they first run."""
    steps = sorted({1, stream.schedule.first_units}, reverse=True)
    dit = [dit_signature(stream, units) for units in steps]
    signatures = [encode_signature(stream), *dit, decode_signature(stream)]
    if stream.is_tile:
        signatures.append(decode_tile_signature(stream))
    return {signature.name: signature for signature in signatures}


def _latent(name: str, geometry: Geometry, latent_frames: int) -> TensorSpec:
    return TensorSpec(name, "float32", (latent_frames, LATENT_CHANNELS, *geometry.latent), "T C h w")


def _state(name: str, dtype: str, shape: tuple[int, ...], layout: str) -> TensorSpec:
    return TensorSpec(name, dtype, shape, layout, Role.STATE)


def _result(spec: TensorSpec) -> TensorSpec:
    return replace(spec, role=Role.OUTPUT)


def _tokens(stream: StreamConfig, units: int) -> TensorSpec:
    shape = (units * stream.geometry.unit_tokens, stream.preset.network.dit.dim)
    return TensorSpec("tokens", COMPUTE, shape, TOKENS_LAYOUT)


def _condition(geometry: Geometry) -> TensorSpec:
    return TensorSpec("condition", "float32", (UNIT_FRAMES, 3, *geometry.target), "T C H W")


def _memory_shapes(network: NetworkConfig, geometry: Geometry) -> list[tuple[int, ...]]:
    """The decoder runs three MemBlocks at each of 1/8, 1/4 and 1/2 of the target size."""
    strides = (LATENT_STRIDE, LATENT_STRIDE // 2, LATENT_STRIDE // 4)
    return [
        (1, channels, geometry.target[0] // stride, geometry.target[1] // stride)
        for channels, stride in zip(network.decoder.channels, strides, strict=False)
        for _ in range(3)
    ]
