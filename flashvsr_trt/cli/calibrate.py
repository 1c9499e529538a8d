"""`flashvsr-trt calibrate`: which products stay out of FP8, by a user's own weights and clips."""

import os
from itertools import islice
from typing import Any

import click
import numpy as np

from flashvsr_trt.cli.commands import Command, Option
from flashvsr_trt.cli.display import say
from flashvsr_trt.cli.options import (
    COUNT,
    DEVICE,
    FIT,
    OVERWRITE,
    PRESET,
    SCALE,
    SCHEDULE,
    WEIGHTS,
    Choice,
    FiniteType,
    OutputPath,
)
from flashvsr_trt.cli.terminal import print_table
from flashvsr_trt.config.presets import find_preset
from flashvsr_trt.files.new import new_report
from flashvsr_trt.files.targets import check_outputs, local_path
from flashvsr_trt.runtime.request import DTYPES, InputOptions, TorchOptions, UpscaleOptions

SHOWN = 10
"""Of the products, those with the largest errors."""


@click.command(cls=Command)
@click.argument("clips", metavar="CLIP...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    type=OutputPath(path_type=str),
    metavar="FILE",
    required=True,
    help="For `run --calibration`.",
)
@PRESET
@SCALE
@WEIGHTS
@SCHEDULE
@FIT
@DEVICE
@click.option(
    "--precision",
    "dtype",
    cls=Option,
    aliases=("--dtype",),
    type=Choice(("auto", *DTYPES), older={dtype: name for name, dtype in DTYPES.items()}),
    callback=lambda context, option, name: DTYPES.get(name, name),
    default="auto",
    help="What FP8 is compared with.",
)
@click.option("--frames", type=COUNT, default=41, help="Of each clip.")
@click.option("--psnr", "wanted", type=FiniteType(), default=40.0, help="Of every chunk.")
@OVERWRITE
def calibrate(
    clips: tuple[str, ...], output: str, frames: int, wanted: float, overwrite: bool, **options: Any
) -> None:
    """Measure each product in FP8 on CLIPs, and choose the fewest that stay in --precision.

    A product's error is that of the latents where it alone is in FP8. The worst stay until every chunk of
    every clip has --psnr dB against none in FP8.
    """
    from flashvsr_trt.model.network import build_network
    from flashvsr_trt.model.weights.load import load_weights, resolve_weights
    from flashvsr_trt.parity.calibrate import choose_kept, product_errors, record
    from flashvsr_trt.runtime.torch.device import choose_device, choose_dtype
    from flashvsr_trt.runtime.torch.device_memory import check_memory
    from flashvsr_trt.runtime.torch.precision import Calibration, fp8_products
    from flashvsr_trt.runtime.video.input import open_input

    check_outputs({"-o": output}, clips, overwrite)
    asked = UpscaleOptions(**options)
    chosen, place = find_preset(asked.preset), choose_device(asked.device)
    kind = choose_dtype(asked.dtype, place)
    # Refused here on a GPU that has no FP8.
    fp8_products(TorchOptions(precision="fp8-attention"), place, kind, chosen.network)
    read = []
    for clip in clips:
        with open_input(clip, InputOptions(frames=frames), notify=say) as source:
            stream = asked.stream(source.info.height, source.info.width)
            read.append((stream, np.stack([frame.pixels for frame in islice(source, frames)])))
    with new_report(local_path(output), overwrite=overwrite) as write:
        loaded = load_weights(resolve_weights(asked.weights, chosen.network), chosen.network, kind)
        network = build_network(chosen.network, loaded, place, kind)
        recorded = []
        for stream, given in read:
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
