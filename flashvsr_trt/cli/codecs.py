"""`run --list-codecs`: the video encoders of this FFmpeg, those of graphics cards among them."""

from typing import Any

import click

from flashvsr_trt.cli.terminal import print_table


def list_codecs(context: click.Context, option: click.Parameter, asked: bool) -> None:
    """A callback of the option: prints the table, and ends the command."""
    if not asked:
        return
    from flashvsr_trt.runtime.video.encoders_here import encoders_here

    print_table(_COLUMNS, encoders_here())
    context.exit()


_COLUMNS: dict[str, Any] = {
    "codec": lambda encoder: f"{encoder.name:<14}",
    "makes": lambda encoder: f"{encoder.makes:<10}",
    "quality": lambda encoder: f"{encoder.quality:<12}",
    "on": lambda encoder: f"{'a GPU' if encoder.hardware else 'the CPU':<7}",
    "here": lambda encoder: "opens" if encoder.why_not is None else f"does not open: {encoder.why_not}",
}
