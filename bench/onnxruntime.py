"""ONNX Runtime against the torch reference on the CPU: the same frames through both, stage by stage.

    python -m bench.onnxruntime [--preset nano] [--size 256x256] [--repeats 7] [--threads N]

Exports into a temporary folder, prints JSON. Times are of this machine and this moment; compare them within
one run only.
"""

import json
import tempfile
from functools import partial
from pathlib import Path

import click
import torch

from bench.cpu import interleaved_medians
from bench.steady_stages import WEIGHTS, SteadyStages, load_random
from flashvsr_trt.cli.options import SizeType
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.export.export_bundle import export_bundle
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.onnxruntime.executor import OnnxRuntimeExecutor
from flashvsr_trt.runtime.torch.executor import TorchExecutor


def measure(preset_name: str, target: tuple[int, int], repeats: int, threads: int | None) -> dict:
    """Seconds of one steady unit (8 frames) by stage in both backends, and how alike their frames are."""
    preset = find_preset(preset_name)
    stream = StreamConfig(preset, Geometry(target[0] // 2, target[1] // 2, 2), find_schedule("low-latency"))
    network = load_random(preset.network, torch.float32, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        report = partial(click.echo, err=True)
        bundle = export_bundle(stream, WEIGHTS, "fp32", Path(folder) / "bundle", report)
        backends = {
            "torch": SteadyStages(TorchExecutor(network, stream)),
            "onnxruntime": SteadyStages(OnnxRuntimeExecutor(bundle, threads=threads)),
        }
        calls = {
            f"{stage} {name}": getattr(stages, stage)
            for stage in ("encode", "dit", "decode")
            for name, stages in backends.items()
        }
        seconds = interleaved_medians(calls, repeats)
        alike = psnr(backends["torch"].decoded, backends["onnxruntime"].decoded)
    by_stage = {
        stage: {name: seconds[f"{stage} {name}"] for name in backends}
        for stage in ("encode", "dit", "decode")
    }
    totals = {name: sum(stage[name] for stage in by_stage.values()) for name in backends}
    return {
        "preset": preset_name,
        "target": f"{target[1]}x{target[0]}",
        "seconds_per_unit": by_stage | {"all": totals},
        "onnxruntime_speedup": totals["torch"] / totals["onnxruntime"],
        "frames_psnr": alike,
        "threads": threads or torch.get_num_threads(),
    }


@click.command()
@click.option("--preset", default="nano", show_default=True)
@click.option("--size", type=SizeType(), default="256x256", show_default=True, help="Of the output.")
@click.option("--repeats", default=7, show_default=True)
@click.option("--threads", type=int, help="Of both backends.  [default: theirs]")
def main(preset: str, size: tuple[int, int], repeats: int, threads: int | None) -> None:
    """Compare ONNX Runtime with torch on the CPU."""
    if threads:
        torch.set_num_threads(threads)
    click.echo(json.dumps(measure(preset, size, repeats, threads), indent=2))


if __name__ == "__main__":
    main()
