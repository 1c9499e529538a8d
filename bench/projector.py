"""Times the projector's convolutions whole and frame by frame: python -m bench.projector [--all] [--write].

cuDNN's choice depends on the frame's size: at some, a convolution of two frames takes twice as long as each
frame alone. `--all` looks at every size of target up to 3840x2176, whole and as 2, 4 and 8 ranks share its
rows; `--write` keeps those sizes in `kernels/frame_by_frame.json`, where the projector finds them.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from math import ceil, inf

import click
import torch
import torch.nn.functional as F

from bench.gpu_timing import require_gpu
from bench.kernel_problems import SCENES
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import DEFAULT_PRESET, find_preset
from flashvsr_trt.config.signatures import PIXEL_CHANNELS
from flashvsr_trt.kernels.calls import architecture_of
from flashvsr_trt.kernels.norm_silu import convolve_by_frame
from flashvsr_trt.kernels.stack_frames import FRAMES
from flashvsr_trt.kernels.tuning import FRAME_BY_FRAME, convolution_key

DEFAULT_SCENES = ("640x384", "672x384", "640x480", "1280x704")

LARGEST_GRID = (136, 240)
"""Rows and columns of tokens of the largest target that `--all` looks at; both come in multiples of 8."""

RANKS = (1, 2, 4, 8)
"""Numbers of ranks whose rows `--all` looks at."""

WORTH = 0.95
"""Frame by frame is chosen where it takes at most this part of the time: noise chooses nothing."""

GOOD_RATE = 620
"""TFLOP/s. What is as fast as this in one piece is not tried frame by frame by `--all`."""

REPEATS = 3


@dataclass(frozen=True)
class Line:
    """One convolution at one size, `shape` of its stacked frames; milliseconds both ways."""

    shape: tuple[int, ...]
    tflop: float
    whole_ms: float
    by_frame_ms: float

    @property
    def by_frame(self) -> bool:
        """Whether frame by frame is clearly faster."""
        return self.by_frame_ms < WORTH * self.whole_ms


def milliseconds(call) -> float:
    """The shortest of REPEATS calls after another: what disturbs only adds."""
    times = []
    for _ in range(1 + REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times[1:])


def measure(grids: Iterable[tuple[int, int]], good_rate: float = inf) -> Iterator[Line]:
    """Both convolutions at every size; frame by frame only where the whole is slower than `good_rate`."""
    hidden = find_preset(DEFAULT_PRESET).network.projector.hidden
    layers = ((4, PIXEL_CHANNELS, hidden[0]), (2, *hidden))
    weights = [
        torch.randn(outputs, FRAMES * inputs, 3, 3, device="cuda", dtype=torch.bfloat16)
        .mul_(0.01)
        .contiguous(memory_format=torch.channels_last)
        for _, inputs, outputs in layers
    ]
    for rows, columns in grids:
        for (count, inputs, outputs), weight in zip(layers, weights, strict=True):
            shape = (count, FRAMES * inputs, rows + 2, columns + 2)
            stacked = torch.empty(
                shape, device="cuda", dtype=torch.bfloat16, memory_format=torch.channels_last
            )
            stacked.normal_()
            whole = milliseconds(lambda x=stacked, w=weight: F.conv2d(x, w))
            work = 2e-12 * count * rows * columns * 9 * FRAMES * inputs * outputs
            slow = 1e3 * work / whole < good_rate
            by_frame = milliseconds(lambda x=stacked, w=weight: convolve_by_frame(x, w)) if slow else inf
            yield Line(shape, work, whole, by_frame)


def every_grid() -> list[tuple[int, int]]:
    """Rows and columns of tokens that a rank has of every target that is not much larger than 4K."""
    rows, columns = LARGEST_GRID
    sides = range(8, columns + 1, 8)
    grids = (
        (ceil(row / ranks), column)
        for ranks, row, column in product(RANKS, sides, sides)
        if row * column <= rows * columns
    )
    return sorted(set(grids))


@click.command()
@click.option("--all", "every", is_flag=True, help="Every size; prints those that are faster frame by frame.")
@click.option("--write", is_flag=True, help="Keep them in kernels/frame_by_frame.json.")
def main(every: bool, write: bool) -> None:
    """Print a line a convolution and size."""
    click.echo(
        f"{require_gpu()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}, bfloat16"
    )
    click.echo("\n| stacked frames | whole, ms | TFLOP/s | frame by frame, ms | TFLOP/s |")
    click.echo("| --- | ---: | ---: | ---: | ---: |")
    grids = every_grid() if every else [Geometry(*SCENES[scene], scale=2).tokens for scene in DEFAULT_SCENES]
    chosen = []
    for line in measure(grids, GOOD_RATE if every else inf):
        if line.by_frame:
            chosen.append(convolution_key(line.shape))
        if line.by_frame or not every:
            rates = (1e3 * line.tflop / time for time in (line.whole_ms, line.by_frame_ms))
            whole, by_frame = rates
            click.echo(
                f"| {convolution_key(line.shape)} | {line.whole_ms:.2f} | {whole:.0f} "
                f"| {line.by_frame_ms:.2f} | {by_frame:.0f} |"
            )
    if write:
        table = json.loads(FRAME_BY_FRAME.read_text()) | {architecture_of(torch.device("cuda")): chosen}
        FRAME_BY_FRAME.write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
