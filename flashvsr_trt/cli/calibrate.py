"""`flashvsr-trt calibrate`: which products stay out of FP8, by a user's own weights and clips."""

import os
from itertools import islice

import click
import numpy as np

from flashvsr_trt.cli.commands import Command, Option
from flashvsr_trt.cli.display import say
from flashvsr_trt.cli.options import (
    COUNT,
    DTYPES,
    OVERWRITE,
    PRESET,
    SCALE,
    SCHEDULE,
    WEIGHTS,
    FiniteType,
    choice,
    dtype_of,
)
from flashvsr_trt.cli.terminal import print_table
from flashvsr_trt.config.geometry import FITS, Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.files.new import new_report
from flashvsr_trt.files.targets import check_outputs, local_path

SHOWN = 10
"""Of the products, those with the largest errors."""


@click.command(cls=Command)
@click.argument("clips", metavar="CLIP...", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", required=True, help="For `run --calibration`.")
@PRESET
@SCALE
@WEIGHTS
@SCHEDULE
@choice("--fit", FITS, "To multiples of 128 pixels.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option(
    "--precision",
    "dtype",
    cls=Option,
    aliases=("--dtype",),
    type=click.Choice(("auto", *DTYPES, *DTYPES.values())),
    callback=lambda context, option, name: dtype_of(name),
    default="auto",
    show_default=True,
    metavar="auto|fp32|bf16|fp16",
    help="What FP8 is compared with.",
)
@click.option("--frames", type=COUNT, default=41, show_default=True, help="Of each clip.")
@click.option("--psnr", "wanted", type=FiniteType(), default=40.0, show_default=True, help="Of every chunk.")
@OVERWRITE
def calibrate(
    clips: tuple[str, ...],
    output: str,
    preset: str,
    scale: int,
    weights: str | None,
    schedule: str,
    fit: str,
    device: str,
    dtype: str,
    frames: int,
    wanted: float,
    overwrite: bool,
) -> None:
    """Measure each product in FP8 on CLIPs, and choose the fewest that stay in --precision.

    A product's error is that of the latents where it alone is in FP8. The worst stay until every chunk of
    every clip has --psnr dB against none in FP8.
    """
    from flashvsr_trt.model.network import build_network
    from flashvsr_trt.model.weights.load import load_weights, resolve_weights
    from flashvsr_trt.parity.calibrate import choose_kept, product_errors, record
    from flashvsr_trt.runtime.request import InputOptions, TorchOptions
    from flashvsr_trt.runtime.torch.device import check_memory, choose_device, choose_dtype
    from flashvsr_trt.runtime.torch.precision import Calibration, fp8_products
    from flashvsr_trt.runtime.video.input import open_input

    check_outputs({"-o": output}, clips, overwrite)
    chosen, place = find_preset(preset), choose_device(device)
    kind = choose_dtype(dtype, place)
    # Refused here on a GPU that has no FP8.
    fp8_products(TorchOptions(precision="fp8-attention"), place, kind, chosen.network)
    read = []
    for clip in clips:
        with open_input(clip, InputOptions(frames=frames), notify=say) as source:
            geometry = Geometry(source.info.height, source.info.width, scale, fit)
            read.append((geometry, np.stack([frame.pixels for frame in islice(source, frames)])))
    with new_report(local_path(output), overwrite=overwrite) as write:
        loaded = load_weights(resolve_weights(weights, chosen.network), chosen.network, kind)
        network = build_network(chosen.network, loaded, place, kind)
        recorded = []
        for geometry, given in read:
            stream = StreamConfig(chosen, geometry, find_schedule(schedule))
            check_memory(stream, place, kind)
            recorded.append(record(network, stream, given))
        errors = product_errors(network, recorded)
        kept, reached = choose_kept(network, recorded, errors, wanted)
        names = tuple(os.path.basename(clip) for clip in clips)
        table = Calibration(chosen.name, loaded.fingerprint, names, reached, errors, tuple(kept))
        write(table.text())
    columns = {
        "product": str,
        "error of the latents": lambda name: f"{errors[name]:.2e}",
        "stays": lambda name: "yes" if name in kept else "no",
    }
    print_table(columns, sorted(errors, key=errors.__getitem__, reverse=True)[:SHOWN])
    stay = f"{len(kept)} of {len(errors)} products stay out of FP8"
    say(f"{output}: {stay}; the worst chunk has {reached:.1f} dB")
