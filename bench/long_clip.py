"""A long clip through `run`, and the memory that the process holds as frames are written.

    python -m bench.long_clip [--frames 2000] [--input-size 140x60] [--tile 256x256] [--backend torch]

A clip is flat in memory where its last tenth holds no more than the second: the first fills queues and rings.
"""

import json
import os
import re
import tempfile
from pathlib import Path

import av
import click
import numpy as np

from flashvsr_trt.cli.options import SizeType
from flashvsr_trt.runtime.request import RunOptions
from flashvsr_trt.runtime.upscale import upscale_file

MIB = 2**20
TENTHS = 10


def write_clip(path: Path, frames: int, height: int, width: int) -> None:
    """Write a clip of a pattern that moves."""
    rows, columns = np.mgrid[:height, : width + frames]
    picture = (128 + 60 * np.sin(rows / 7) * np.cos(columns / 9) + 30 * ((columns // 13) % 2)).astype(
        np.uint8
    )
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for at in range(frames):
            shown = np.repeat(picture[:, at : at + width, None], 3, axis=2)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(shown))))
        container.mux(stream.encode(None))


def memory_of(name: str) -> float:
    """MiB of this process: `VmRSS` is what it holds, `VmHWM` the most that it ever held."""
    return int(re.findall(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[0]) * 1024 / MIB


@click.command()
@click.option("--frames", type=click.IntRange(min=200), default=2000, show_default=True)
@click.option("--input-size", "size", type=SizeType(), default="140x60", show_default=True)
@click.option("--tile", type=SizeType(), default="256x256", show_default=True)
@click.option("--preset", default="nano", show_default=True)
@click.option("--backend", type=click.Choice(["torch", "onnxruntime"]), default="torch", show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the figures to this file.")
def main(frames: int, size, tile, preset: str, backend: str, json_file: Path | None) -> None:
    """Print what is held after each tenth of the clip, and the most that was; write JSON where asked."""
    tenths: list[dict[str, float]] = []

    def look(done: int, total: int | None) -> None:
        if done * TENTHS >= (len(tenths) + 1) * frames:
            tenths.append({"frames": done, "holds": memory_of("VmRSS"), "peak": memory_of("VmHWM")})
            click.echo(f"{done:6} frames: {tenths[-1]['holds']:8.1f} MiB, at most {tenths[-1]['peak']:8.1f}")

    with tempfile.TemporaryDirectory() as folder:
        clip = Path(folder) / "clip.mp4"
        write_clip(clip, frames, *size)
        options = RunOptions(
            input=str(clip), preset=preset, weights="random:1", backend=backend, device="cpu", tile=tile
        )
        report, truncated = upscale_file(options, lambda line: click.echo(line, err=True), look)
    if truncated or report["frames"] != frames:
        raise click.ClickException(f"{report['frames']} frames of {frames} came out: {truncated}")
    grown = tenths[-1]["peak"] / tenths[1]["peak"]
    click.echo(
        f"{frames} frames in {report['executor']['tiles']} tiles of {tile[1]}x{tile[0]}, {backend}, "
        f"{preset}: at the end {grown:.3f} times the peak after a fifth"
    )
    if json_file:
        facts = {"size": size, "tile": tile, "preset": preset, "backend": backend, "cores": os.cpu_count()}
        json_file.write_text(json.dumps(facts | {"grown": grown, "tenths": tenths}, indent=1) + "\n")


if __name__ == "__main__":
    main()
