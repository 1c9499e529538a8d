"""The streams that the ranks' frames are compared on, and running one while keeping its float frames."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig, Preset, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.model.color import fix_color, quantise
from flashvsr_trt.runtime.executor import Executor
from flashvsr_trt.runtime.session import Session
from tests.slim import slim

WEIGHTS = "random:3"

THINNED = AttentionConfig(sparse_ratio=0.1, local_range=3)
"""Few kept blocks and a narrow neighbourhood: a small frame then exercises selection."""

PUSHES = (41, 8, 4)
"""Frames of each push: the second one is a single steady unit in both schedules, which make 7 in all."""


def stream(preset: Preset, width: int, schedule: str, color_fix: str = "adain") -> StreamConfig:
    """A frame as high as one window, not a multiple of 16 before padding."""
    return StreamConfig(slim(preset), Geometry(61, width, 2), find_schedule(schedule), color_fix=color_fix)


def many_heads_preset(attention: AttentionConfig) -> Preset:
    """Nano with 12 heads as wide as its own."""
    nano = find_preset("nano")
    dit = replace(nano.network.dit, dim=12 * nano.network.dit.head_dim, heads=12)
    return replace(nano, network=replace(nano.network, dit=dit), attention=attention)


NANO_STREAMS = {
    "nano, sparse, official": stream(find_preset("nano"), 128, "official"),
    "nano, sparse, low-latency": stream(find_preset("nano"), 128, "low-latency"),
    "nano, dense, official": stream(find_preset("nano-full-attn"), 128, "official", "none"),
    "nano, dense, low-latency": stream(find_preset("nano-full-attn"), 128, "low-latency"),
}
"""The presets' own attention, over two windows of 8 rows, which 2, 3 and 4 ranks share: evenly, and not."""

THINNED_STREAMS = {
    "nano, thinned, official": stream(replace(find_preset("nano"), attention=THINNED), 192, "official"),
}
"""Three windows, of which the outer two are no neighbours."""

MANY_HEADS_STREAMS = {
    "nano of 12 heads, thinned": stream(many_heads_preset(THINNED), 192, "low-latency", "wavelet"),
    "nano of 12 heads, dense": stream(
        many_heads_preset(AttentionConfig(sparse_ratio=None)), 128, "low-latency"
    ),
}
"""The same frames, whose 8 rows 5 ranks share unevenly, as they do the heads."""

REPLAYED = ("nano, sparse, low-latency", "nano, dense, official")
"""Streams whose steady steps ranks run through graphs; on a CPU, through what stands in for them."""

STREAMS = NANO_STREAMS | THINNED_STREAMS | MANY_HEADS_STREAMS


@dataclass(frozen=True)
class Made:
    """Frames before they became bytes [n, 3, h, w], the bytes [m, H, W, 3], and operators' calls."""

    floats: torch.Tensor
    frames: np.ndarray
    kernel_calls: dict[str, int]


def keep_floats(decode_stage: nn.Module) -> list[torch.Tensor]:
    """Let a decode stage keep the frames it makes, before they become bytes."""
    kept: list[torch.Tensor] = []

    def finish(frames: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        method, communicator = decode_stage.color_fix, decode_stage.communicator
        kept.append(fix_color(frames.float() * 2 - 1, condition, method, communicator))
        return quantise(kept[-1])

    decode_stage.finish = finish
    return kept


def clip(stream: StreamConfig) -> np.ndarray:
    """A moving picture of low contrast, uint8 [n, H, W, 3].

    AdaIN multiplies the decoder's rounding errors by this contrast over that of what seeded weights decode.
    """
    geometry, count = stream.geometry, sum(PUSHES)
    picture = np.random.default_rng(7).integers(
        96, 160, (geometry.height, geometry.width + count, 3), dtype=np.uint8
    )
    return np.stack([picture[:, i : i + geometry.width] for i in range(count)])


def run_clip(executor: Executor, before_push: Callable[[], None] = lambda: None) -> np.ndarray:
    """All frames of the clip, pushed as PUSHES says."""
    session, frames, made = Session(executor), clip(executor.stream), []
    for end, count in zip(np.cumsum(PUSHES), PUSHES, strict=True):
        before_push()
        made.append(session.push(frames[end - count : end]))
    before_push()
    return np.concatenate([*made, session.flush()])
