"""`flashvsr-trt weights`: pull, check and convert checkpoints."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flashvsr_trt.cli.commands import Group
from flashvsr_trt.cli.options import JSON, OVERWRITE, OutputPath
from flashvsr_trt.cli.terminal import print_table
from flashvsr_trt.config.presets import DEFAULT_PRESET, find_preset
from flashvsr_trt.errors import WeightsError

if TYPE_CHECKING:
    # The commands import torch themselves, so that `--help` does not wait for it.
    from flashvsr_trt.model.weights.report import PartReport

_COLUMNS: "dict[str, Callable[[PartReport], str]]" = {
    "part": lambda part: part.part,
    "format": lambda part: part.format or "unreadable",
    "tensors": lambda part: str(part.tensors),
    "parameters": lambda part: f"{part.parameters:,}",
    "dtype": lambda part: "/".join(part.dtypes),
    "sizes": lambda part: ", ".join(f"{name} {size}" for name, size in (part.sizes or {}).items()),
    "version": lambda part: part.version or "-",
}

_PATH = click.Path(path_type=Path)
_PRESET = click.option("--preset", default=DEFAULT_PRESET, help="Network whose sizes are expected.")
_PROMPT = click.option("--prompt", type=_PATH, help="posi_prompt.pth, where it is not beside the weights.")


@click.group(cls=Group)
def weights() -> None:
    """Download, check and convert checkpoints."""


@weights.command()
@click.option("--repo", help="Hugging Face repository.  [default: the published v1.1 one]")
@click.option("--revision", default="main", help="Branch, tag or commit.")
@click.option("-o", "--output", type=OutputPath(), help="Directory.  [default: the Hugging Face cache]")
def pull(repo: str | None, revision: str, output: Path | None) -> None:
    """Download the published files and verify their checksums (6.4 GB)."""
    from flashvsr_trt.model.weights.download import pull_weights
    from flashvsr_trt.model.weights.published import REPOSITORY

    directory = pull_weights(repo or REPOSITORY, revision, output, click.echo)
    click.echo(f"use them with --weights {directory}")


@weights.command()
@click.argument("path", type=_PATH)
@_PRESET
@_PROMPT
@JSON
def check(path: Path, preset: str, prompt: Path | None, as_json: bool) -> None:
    """Say what PATH holds (a directory, one of its files, or a bundle); exit 1 if it would not load."""
    from flashvsr_trt.model.weights.report import report_weights

    report = report_weights(path, find_preset(preset).network, prompt)
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        print_table(_COLUMNS, report.parts)
        for problem in report.problems:
            click.echo(f"problem: {problem}")
        click.echo(f"{path}: {'would not load' if report.problems else f'loads as {report.version}'}")
    if report.problems:
        sys.exit(WeightsError.exit_code)


@weights.command()
@click.argument("source")
@click.argument("output", type=OutputPath())
@_PRESET
@_PROMPT
@OVERWRITE
@click.option("--allow-unverified", is_flag=True, help="Accept files that are not the published v1.1 ones.")
def convert(
    source: str, output: Path, preset: str, prompt: Path | None, overwrite: bool, allow_unverified: bool
) -> None:
    """Fold SOURCE, a directory of the published files, into one bundle OUTPUT.safetensors."""
    from flashvsr_trt.model.weights.load import convert_weights

    written = convert_weights(
        source,
        output,
        find_preset(preset).network,
        prompt=prompt,
        overwrite=overwrite,
        allow_unverified=allow_unverified,
    )
    click.echo(f"{output}: {written.source}, fingerprint {written.fingerprint}")
