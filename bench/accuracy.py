"""How far bfloat16 is from float32 at full size: python -m bench.accuracy [--scene WxH] [--chunks 10].

The same clip (moving gradients, discs and gratings, not noise) runs through the float32 references and
through the bfloat16 kernels. PSNR of the frames chunk by chunk, relative errors of tokens and latents, and
the decoder alone, fed with the float32 latents.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from bench.gpu_timing import require_gpu
from bench.kernel_problems import SCENES
from bench.pipeline import stream_for
from bench.steady_stages import load_random
from flashvsr_trt.config.presets import DEFAULT_PRESET, UNIT_FRAMES
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.executor import ReadyFrames
from flashvsr_trt.runtime.request import TorchOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.executor import TorchExecutor


@dataclass(frozen=True)
class ChunkError:
    """bfloat16 against float32 in one steady chunk. Errors are norms relative to the float32 tensor's."""

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


class RecordingExecutor(TorchExecutor):
    """A torch executor that keeps what its stages give."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.record = Record()

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

    def start_decode(self, latent: torch.Tensor, condition: torch.Tensor, state: Any) -> ReadyFrames:
        """See `Executor.start_decode`; these frames are waited for."""
        frames = super().start_decode(latent, condition, state).read().copy()
        self.record.conditions.append(condition.cpu())
        self.record.frames.append(frames)
        return ReadyFrames(frames)


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


def record_clip(
    stream: StreamConfig, dtype: torch.dtype, attention: str, chunks: int, device: torch.device
) -> Record:
    """The whole clip through an executor of that dtype; `attention` as in `TorchOptions`."""
    network = load_random(stream.preset.network, dtype, device)
    executor = RecordingExecutor(network, stream, TorchOptions(attention=attention, cuda_graphs=False))
    session = Session(executor)
    height, width = stream.geometry.height, stream.geometry.width
    for first in range(0, chunks * UNIT_FRAMES, UNIT_FRAMES):
        session.push(np.stack([structured_frame(first + i, height, width) for i in range(UNIT_FRAMES)]))
    session.flush()
    return executor.record


def decode_latents(
    stream: StreamConfig, latents: list[torch.Tensor], conditions: list[torch.Tensor], device: torch.device
) -> list[np.ndarray]:
    """Frames of the bfloat16 decoder on latents from elsewhere."""
    network = load_random(stream.preset.network, torch.bfloat16, device)
    executor = TorchExecutor(network, stream, TorchOptions(cuda_graphs=False))
    state = executor.new_state()
    pairs = zip(latents, conditions, strict=True)
    return [
        executor.decode(latent.to(device), condition.to(device), state).copy() for latent, condition in pairs
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


def measure_stream(stream: StreamConfig, chunks: int, device: torch.device) -> list[ChunkError]:
    """Every chunk's errors; on a CPU both sides are the references, in their dtypes."""
    wanted = record_clip(stream, torch.float32, "reference", chunks, device)
    got = record_clip(stream, torch.bfloat16, "auto", chunks, device)
    return compare(wanted, got, decode_latents(stream, wanted.latents, wanted.conditions, device))


def measure(scene: str, preset: str, chunks: int) -> dict:
    """Every chunk's errors, the worst PSNR and the drift."""
    device = require_gpu()
    # cuDNN would use TF32 in the reference, which has 10 bits of mantissa.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    errors = measure_stream(stream_for(scene, preset), chunks, torch.device("cuda"))
    return {
        "device": device,
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
        f"bfloat16 against float32, worst chunk {report['worst_psnr']:.1f} dB, drift "
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
    return "\n".join(lines)


@click.command()
@click.option("--scene", type=click.Choice(list(SCENES)), default="704x384", show_default=True)
@click.option("--preset", default=DEFAULT_PRESET, show_default=True)
@click.option("--chunks", type=click.IntRange(min=3), default=10, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(scene: str, preset: str, chunks: int, json_file: Path | None) -> None:
    """Print the table; write JSON where asked."""
    report = measure(scene, preset, chunks)
    click.echo(table(report))
    if json_file:
        json_file.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
