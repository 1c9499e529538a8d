"""Times ways to compute the projector's two convolutions: python -m bench.projector [--scene WxH ...].

cuDNN's choice depends on the frame's size by a factor of two and more. Each line is one way at one size, in
ms and TFLOP/s of the work that is asked for; what a way pads or lays out beforehand is part of its time
unless its name says otherwise. Every way's result is compared with cuDNN's.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F

from bench.gpu_timing import median_microseconds, require_gpu
from bench.kernel_problems import SCENES
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import DEFAULT_PRESET, find_preset
from flashvsr_trt.config.signatures import PIXEL_CHANNELS
from flashvsr_trt.kernels.conv_product import launch_conv_product
from flashvsr_trt.kernels.tuning import Setting

DEFAULT_SCENES = ("640x384", "672x384", "640x480", "1280x704")

TILES = [
    (8, {"PIXELS": 128, "OUTPUTS": 256, "CHANNELS": 64}, 4),
    (8, {"PIXELS": 128, "OUTPUTS": 256, "CHANNELS": 64}, 3),
    (8, {"PIXELS": 256, "OUTPUTS": 128, "CHANNELS": 64}, 4),
    (4, {"PIXELS": 128, "OUTPUTS": 128, "CHANNELS": 64}, 4),
]
"""Warps, sizes and stages of the implicit product."""


@dataclass(frozen=True)
class Line:
    """One way to compute one convolution at one size."""

    scene: str
    convolution: str
    way: str
    ms: float
    tflops: float
    error: float | None


def unfold_product(stacked: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The convolution as a copy of each pixel's 3x3 neighbourhood and one plain product."""
    frames, channels, height, width = stacked.shape
    stride = stacked.permute(0, 2, 3, 1).stride()
    windows = stacked.as_strided(
        (frames, height - 2, width - 2, 3, 3 * channels), (*stride[:3], stride[1], 1)
    )
    product = windows.reshape(-1, 9 * channels) @ weight.permute(0, 2, 3, 1).flatten(1).t()
    return product.view(frames, height - 2, width - 2, -1).permute(0, 3, 1, 2)


def grown(x: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """x with more rows and columns behind, in channels-last memory."""
    return F.pad(x, (0, columns, 0, rows)).contiguous(memory_format=torch.channels_last)


def ways(stacked: torch.Tensor, weight: torch.Tensor) -> Iterator[tuple[str, Callable[[], torch.Tensor]]]:
    """Name and call of each way; a call gives the convolution's result or, where it grew, more."""
    yield "cuDNN, as it chooses", lambda: F.conv2d(stacked, weight)

    def measured_by_cudnn() -> torch.Tensor:
        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            return F.conv2d(stacked, weight)

    yield "cuDNN, benchmark mode", measured_by_cudnn
    yield "cuDNN, frame by frame", lambda: torch.cat([F.conv2d(one, weight) for one in stacked.split(1)])
    for rows, columns in ((2, 0), (4, 0), (8, 0), (16, 0), (0, 2), (0, 6), (0, 14), (8, 14)):
        more = grown(stacked, rows, columns)
        yield (
            f"cuDNN, {rows} rows and {columns} columns more (padding not timed)",
            lambda more=more: F.conv2d(more, weight),
        )
    yield "copy of 3x3 neighbourhoods and cuBLAS", lambda: unfold_product(stacked, weight)
    for warps, sizes, stages in TILES:
        setting = Setting(warps, stages, sizes)
        name = f"implicit product, {sizes}, {warps} warps, {stages} stages"
        yield name, lambda setting=setting: launch_conv_product(stacked, weight, setting)


def measure(scene: str) -> Iterator[Line]:
    """Every way at one size, for both convolutions."""
    network = find_preset(DEFAULT_PRESET).network
    geometry = Geometry(*SCENES[scene], scale=2)
    rows, columns = geometry.tokens
    hidden, features = network.projector.hidden
    generator = torch.Generator("cuda").manual_seed(0)
    for name, frames, inputs, outputs in (
        ("conv1", 4, PIXEL_CHANNELS, hidden),
        ("conv2", 2, hidden, features),
    ):
        shape = (frames, 4 * inputs, rows + 2, columns + 2)
        stacked = torch.randn(shape, device="cuda", generator=generator).bfloat16()
        stacked = stacked.contiguous(memory_format=torch.channels_last)
        weight = torch.randn(outputs, 4 * inputs, 3, 3, device="cuda", generator=generator) / 200
        weight = weight.bfloat16().contiguous(memory_format=torch.channels_last)
        work = 2 * frames * rows * columns * 9 * 4 * inputs * outputs
        wanted = F.conv2d(stacked, weight).float()
        for way, call in ways(stacked, weight):
            try:
                got = call().float()
                error = None
                if got.shape == wanted.shape:
                    error = float((got - wanted).norm() / wanted.norm())
                milliseconds = median_microseconds(call, calls=3) / 1e3
            except Exception as failure:
                # One way that this GPU or Triton refuses is a line of the table, not the end of it.
                click.echo(f"{scene} {name} {way}: {type(failure).__name__}: {str(failure)[:300]}", err=True)
                torch.cuda.synchronize()
                continue
            yield Line(scene, name, way, milliseconds, work / milliseconds / 1e9, error)


def row(line: Line) -> str:
    """One line of the table."""
    error = "" if line.error is None else f"{line.error:.1e}"
    return f"| {line.scene} | {line.convolution} | {line.way} | {line.ms:.2f} | {line.tflops:.0f} | {error} |"


@click.command()
@click.option("--scene", "scenes", multiple=True, type=click.Choice(list(SCENES)), help="LR frame.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(scenes: tuple[str, ...], json_file: Path | None) -> None:
    """Print the table as it comes; write JSON where asked."""
    click.echo(
        f"{require_gpu()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, bfloat16"
    )
    click.echo("\n| LR frame | convolution | way | ms | TFLOP/s | difference |")
    click.echo("| --- | --- | --- | ---: | ---: | ---: |")
    lines = []
    for scene in scenes or DEFAULT_SCENES:
        for line in measure(scene):
            lines.append(asdict(line))
            click.echo(row(line))
    if json_file:
        json_file.write_text(json.dumps(lines, indent=1) + "\n")


if __name__ == "__main__":
    main()
