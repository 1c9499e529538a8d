"""How far bfloat16 is from float32, or FP8 from bfloat16, at full size: python -m bench.accuracy.

    [--scene WxH] [--chunks 10] [--candidate bfloat16|fp8|fp8-attention] [--weights W] [--products]

The same clip (moving gradients, discs and gratings, not noise) runs both ways: bfloat16 against the float32
references, FP8 against the bfloat16 kernels. PSNR of the frames chunk by chunk, relative errors of tokens and
latents, the decoder alone, fed with the wanted latents, and which blocks attention keeps. `--products` takes
each product alone in FP8 and names the worst.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from bench.gpu_timing import require_gpu
from bench.kernel_problems import SCENES
from bench.pipeline import stream_for
from bench.steady_stages import WEIGHTS, load_random
from flashvsr_trt.config.presets import DEFAULT_PRESET, UNIT_FRAMES
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.kernels.select_blocks import expand_mask
from flashvsr_trt.model.attention import SparseAttention
from flashvsr_trt.parity.calibrate import product_errors, record
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.executor import PendingFrames
from flashvsr_trt.runtime.request import DIT_PRECISIONS, TorchOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.executor import TorchExecutor

FP8_GATE = 40.0
"""Decibels that every chunk has to have against bfloat16."""

FIRST_FRAMES = 25
"""Of the official schedule's first step, which is three units."""

SHOWN_PRODUCTS = 10


@dataclass(frozen=True)
class ChunkError:
    """Of one steady chunk. Errors are norms relative to the wanted tensor's."""

    chunk: int
    psnr: float
    decoder_psnr: float
    tokens_error: float
    latent_error: float


@dataclass
class Record:
    """What the stages of a clip gave, in order, on the CPU."""

    tokens: list[torch.Tensor] = field(default_factory=list)
    latents: list[torch.Tensor] = field(default_factory=list)
    conditions: list[torch.Tensor] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    kept: list[torch.Tensor] = field(default_factory=list)
    """Blocks that attention keeps, bool, layer after layer and step after step."""


class RecordingExecutor(TorchExecutor):
    """A torch executor that keeps what its stages give."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.record = Record()
        if isinstance(self.dit_stage.attention, SparseAttention):
            self.dit_stage.attention.select = self._recorded(self.dit_stage.attention.select)

    def _recorded(self, select: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Callable:
        def recorded(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
            chosen = select(*arguments)
            self.record.kept.append(expand_mask(*chosen).cpu())
            return chosen

        return recorded

    def encode(self, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Executor.encode`."""
        condition, tokens = super().encode(*arguments)
        self.record.tokens.append(tokens.cpu())
        return condition, tokens

    def dit(self, *arguments: Any) -> list[torch.Tensor]:
        """See `Executor.dit`."""
        latents = super().dit(*arguments)
        self.record.latents += [latent.cpu() for latent in latents]
        return latents

    def start_decode(
        self, latent: torch.Tensor, condition: torch.Tensor, state: Any, on_device: bool = False
    ) -> PendingFrames:
        """See `Executor.start_decode`; these frames are waited for, and on the host."""
        frames = super().start_decode(latent, condition, state)().copy()
        self.record.conditions.append(condition.cpu())
        self.record.frames.append(frames)
        return lambda: frames


def structured_frame(index: int, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3]: gradients that drift, a grating that turns, discs that cross the frame."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    turn = 0.02 * index
    grating = np.sin((x * np.cos(turn) + y * np.sin(turn)) * 0.35)
    drift = np.stack([x / width, y / height, (x + y) / (width + height)]) + 0.01 * index
    picture = 0.5 + 0.3 * np.sin(2 * np.pi * drift) + 0.12 * grating * (x > width / 2)
    for disc in range(8):
        centre_x = (disc * 0.13 + 0.012 * (disc + 1) * index) % 1.0 * width
        centre_y = (disc * 0.29 + 0.007 * index) % 1.0 * height
        inside = (x - centre_x) ** 2 + (y - centre_y) ** 2 < (0.03 + 0.01 * disc) ** 2 * height * width
        colour = np.array([disc & 1, disc >> 1 & 1, disc >> 2 & 1], np.float32)[:, None, None] * 0.8 + 0.1
        picture = np.where(inside, colour, picture)
    return (picture.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)


@dataclass(frozen=True)
class Side:
    """One of the two that are compared; `attention` and `precision` as in `TorchOptions`."""

    dtype: torch.dtype
    attention: str = "auto"
    precision: str = DIT_PRECISIONS[0]


CANDIDATES = {
    "bfloat16": (Side(torch.float32, "reference"), Side(torch.bfloat16)),
    **{name: (Side(torch.bfloat16), Side(torch.bfloat16, precision=name)) for name in DIT_PRECISIONS[1:]},
}
"""What is wanted, and what is held against it."""


def record_clip(
    stream: StreamConfig, side: Side, chunks: int, device: torch.device, weights: str = WEIGHTS
) -> Record:
    """The whole clip through an executor of that side."""
    network = load_random(stream.preset.network, side.dtype, device, side.precision, weights)
    options = TorchOptions(attention=side.attention, cuda_graphs=False, precision=side.precision)
    executor = RecordingExecutor(network, stream, options)
    session = Session(executor)
    height, width = stream.geometry.height, stream.geometry.width
    for first in range(0, chunks * UNIT_FRAMES, UNIT_FRAMES):
        session.push(np.stack([structured_frame(first + i, height, width) for i in range(UNIT_FRAMES)]))
    session.flush()
    return executor.record


def decode_latents(
    stream: StreamConfig,
    latents: list[torch.Tensor],
    conditions: list[torch.Tensor],
    device: torch.device,
    weights: str = WEIGHTS,
) -> list[np.ndarray]:
    """Frames of the bfloat16 decoder on latents from elsewhere."""
    network = load_random(stream.preset.network, torch.bfloat16, device, source=weights)
    executor = TorchExecutor(network, stream, TorchOptions(cuda_graphs=False))
    state = executor.new_state()
    pairs = zip(latents, conditions, strict=True)
    return [
        executor.start_decode(latent.to(device), condition.to(device), state)().copy()
        for latent, condition in pairs
    ]


def relative_error(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Norm of the difference over the norm of `wanted`."""
    return float(
        torch.linalg.vector_norm(got.float() - wanted.float()) / torch.linalg.vector_norm(wanted.float())
    )


def compare(wanted: Record, got: Record, decoded: list[np.ndarray]) -> list[ChunkError]:
    """Chunk by chunk; tokens of the priming call, which has no chunk, are left out."""
    primed = len(wanted.tokens) - len(wanted.latents)
    return [
        ChunkError(
            chunk=chunk,
            psnr=psnr(wanted.frames[chunk], got.frames[chunk]),
            decoder_psnr=psnr(wanted.frames[chunk], decoded[chunk]),
            tokens_error=relative_error(got.tokens[chunk + primed], wanted.tokens[chunk + primed]),
            latent_error=relative_error(got.latents[chunk], wanted.latents[chunk]),
        )
        for chunk in range(len(wanted.latents))
    ]


def drift(errors: list[ChunkError]) -> float:
    """Decibels a chunk, by least squares."""
    return float(np.polyfit([error.chunk for error in errors], [error.psnr for error in errors], 1)[0])


def blocks_lost(wanted: Record, got: Record, layers: int) -> list[float]:
    """By layer: which part of the blocks that are wanted is not kept, over all steps; empty without masks."""
    lost, kept = (torch.zeros(layers, dtype=torch.int64) for _ in range(2))
    for place, (mask, other) in enumerate(zip(wanted.kept, got.kept, strict=True)):
        lost[place % layers] += (mask & ~other).sum()
        kept[place % layers] += mask.sum()
    return (lost / kept).tolist() if wanted.kept else []


def measure_stream(
    stream: StreamConfig,
    chunks: int,
    device: torch.device,
    candidate: str = "bfloat16",
    weights: str = WEIGHTS,
) -> tuple[list[ChunkError], list[float]]:
    """Every chunk's errors and `blocks_lost`; on a CPU both sides are the references, in their dtypes."""
    wanted, got = (record_clip(stream, side, chunks, device, weights) for side in CANDIDATES[candidate])
    decoded = decode_latents(stream, wanted.latents, wanted.conditions, device, weights)
    layers = stream.preset.network.dit.layers
    return compare(wanted, got, decoded), blocks_lost(wanted, got, layers)


def measure_products(
    stream: StreamConfig, device: torch.device, weights: str, dtype: torch.dtype = torch.bfloat16
) -> dict[str, float]:
    """Error of the latents by product, where this alone is in FP8, over the first steps; the worst first."""
    network = load_random(stream.preset.network, dtype, device, source=weights)
    height, width = stream.geometry.height, stream.geometry.width
    frames = np.stack([structured_frame(index, height, width) for index in range(FIRST_FRAMES)])
    errors = product_errors(network, [record(network, stream, frames)])
    return dict(sorted(errors.items(), key=lambda item: -item[1]))


def measure(
    scene: str,
    preset: str,
    chunks: int,
    candidate: str = "bfloat16",
    weights: str = WEIGHTS,
    products: bool = False,
) -> dict:
    """Every chunk's errors, the worst PSNR and the drift."""
    device = require_gpu()
    # cuDNN would use TF32 in the reference, which has 10 bits of mantissa.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    stream = stream_for(scene, preset)
    errors, lost = measure_stream(stream, chunks, torch.device("cuda"), candidate, weights)
    return {
        "device": device,
        "candidate": candidate,
        "weights": weights,
        "blocks_lost": lost,
        "products": measure_products(stream, torch.device("cuda"), weights) if products else {},
        "torch": torch.__version__,
        "scene": scene,
        "preset": preset,
        "worst_psnr": min(error.psnr for error in errors),
        "drift_db_a_chunk": drift(errors),
        "chunks": [asdict(error) for error in errors],
    }


def table(report: dict) -> str:
    """The report as a Markdown table."""
    lines = [
        f"{report['device']}, torch {report['torch']}, {report['preset']}, LR frame {report['scene']}: "
        f"{report['candidate']} against {'float32' if report['candidate'] == 'bfloat16' else 'bfloat16'}, "
        f"weights {report['weights']}, worst chunk {report['worst_psnr']:.1f} dB, drift "
        f"{report['drift_db_a_chunk']:+.3f} dB a chunk.",
        "",
        "| chunk | PSNR, dB | decoder alone, dB | tokens, relative error | latent, relative error |",
        "| ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row['chunk']} | {row['psnr']:.2f} | {row['decoder_psnr']:.2f} | {row['tokens_error']:.2e} "
        f"| {row['latent_error']:.2e} |"
        for row in report["chunks"]
    ]
    if lost := report["blocks_lost"]:
        worst = max(range(len(lost)), key=lost.__getitem__)
        mean = sum(lost) / len(lost)
        lines.append(f"\nOf the kept blocks {mean:.2%} differ; most in layer {worst}, {lost[worst]:.2%}.")
    if products := report["products"]:
        lines += ["", "| product alone in FP8 | latent, relative error |", "| --- | ---: |"]
        lines += [f"| {name} | {error:.2e} |" for name, error in list(products.items())[:SHOWN_PRODUCTS]]
    return "\n".join(lines)


@click.command()
@click.option("--scene", type=click.Choice(list(SCENES)), default="704x384", show_default=True)
@click.option("--preset", default=DEFAULT_PRESET, show_default=True)
@click.option("--chunks", type=click.IntRange(min=3), default=10, show_default=True)
@click.option("--candidate", type=click.Choice(list(CANDIDATES)), default="bfloat16", show_default=True)
@click.option("--weights", default=WEIGHTS, show_default=True, help="As of `flashvsr-trt run`.")
@click.option("--products", is_flag=True, help="Take each product alone in FP8, and name the worst.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(
    scene: str,
    preset: str,
    chunks: int,
    candidate: str,
    weights: str,
    products: bool,
    json_file: Path | None,
) -> None:
    """Print the table; write JSON where asked. Ends with status 1 where FP8 has a chunk below the gate."""
    report = measure(scene, preset, chunks, candidate, weights, products)
    click.echo(table(report))
    if json_file:
        json_file.write_text(json.dumps(report, indent=1) + "\n")
    if candidate in DIT_PRECISIONS and not report["worst_psnr"] >= FP8_GATE:
        raise SystemExit(f"the worst chunk has less than {FP8_GATE} dB: see `flashvsr-trt calibrate`")


if __name__ == "__main__":
    main()
