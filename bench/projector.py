"""Times the projector's convolutions whole and frame by frame: python -m bench.projector [--all] [--write].

cuDNN's choice depends on the frame's size: at some, a convolution of two frames takes twice as long as each
frame alone. `--all` looks at every size of target up to 3840x2176, `--write` keeps those sizes in
`kernels/frame_by_frame.json`, where the projector finds them.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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

WORTH = 0.95
"""Frame by frame is chosen where it takes at most this part of the time: noise chooses nothing."""

REPEATS = 5


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
    """The shortest of REPEATS calls after two others: what disturbs only adds."""
    times = []
    for _ in range(2 + REPEATS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return min(times[2:])


def measure(grids: Iterable[tuple[int, int]]) -> Iterator[Line]:
    """Both convolutions at every size."""
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
            by_frame = milliseconds(lambda x=stacked, w=weight: convolve_by_frame(x, w))
            work = 2 * count * rows * columns * 9 * FRAMES * inputs * outputs
            yield Line(shape, work / 1e12, whole, by_frame)


def every_grid() -> Iterator[tuple[int, int]]:
    """Rows and columns of tokens of every target that is not much larger than 4K."""
    rows, columns = LARGEST_GRID
    for row in range(8, columns + 1, 8):
        for column in range(8, columns + 1, 8):
            if row * column <= rows * columns:
                yield row, column


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
    for line in measure(grids):
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
