"""`flashvsr-trt kernels`: compile the kernels ahead of time."""

from pathlib import Path

import click

from flashvsr_trt.cli.commands import Group, Option
from flashvsr_trt.cli.options import WORKERS, OutputPath, kernel_architecture


@click.group(cls=Group)
def kernels() -> None:
    """The project's own GPU kernels."""


@kernels.command()
@click.option(
    "--arch",
    "architectures",
    multiple=True,
    required=True,
    callback=lambda context, option, names: tuple(map(kernel_architecture, names)),
    metavar="N.N",
    help="Compute capability to compile for: 9.0, or sm_90; may be given more than once.",
)
@click.option(
    "--precision",
    "dtypes",
    cls=Option,
    aliases=("--dtype",),
    multiple=True,
    default=("bf16", "fp16"),
    help="bf16 or fp16, of the attention kernels; may be given more than once.",
)
@click.option("-o", "--output", type=OutputPath(file_okay=False), required=True)
@click.option("--workers", type=WORKERS, default=2, help="Processes that compile at once.")
def build(architectures: tuple[str, ...], dtypes: tuple[str, ...], output: Path, workers: int) -> None:
    """Compile every kernel to PTX and cubin, with a manifest. Needs no GPU."""
    from flashvsr_trt.kernels.compile import build_kernels

    for artifact in build_kernels(architectures, output, dtypes, workers):
        click.echo(
            f"{artifact.architecture:7} {artifact.name:36} {artifact.block:4} threads "
            f"{artifact.registers:4} registers {artifact.spill_bytes:4} B spilled "
            f"{artifact.shared_bytes:7} B shared"
        )
