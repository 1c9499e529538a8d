"""`flashvsr-trt compare`: how close one video is to another, frame by frame."""

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from flashvsr_trt.cli.commands import Command
from flashvsr_trt.cli.display import say
from flashvsr_trt.cli.options import OVERWRITE, OutputPath
from flashvsr_trt.cli.terminal import print_table
from flashvsr_trt.errors import TruncatedInputError
from flashvsr_trt.files.new import new_file, write_errors
from flashvsr_trt.files.targets import STANDARD_STREAM, check_outputs, local_path
from flashvsr_trt.notices import phase

if TYPE_CHECKING:
    # The command imports what decodes and measures itself, so that `--help` does not wait for it.
    from flashvsr_trt.quality.compare import Comparison


@click.command(cls=Command)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option("--json", "json_file", metavar="FILE", help="Write the numbers of every frame; - for stdout.")
@click.option(
    "--html",
    "html_file",
    type=OutputPath(path_type=str),
    metavar="OUT",
    help="Write a page with a plot and sliders from A to B.",
)
@OVERWRITE
def compare(a: str, b: str, json_file: str | None, html_file: str | None, overwrite: bool) -> None:
    """PSNR and SSIM of A against B, two videos or image sequences; the smaller is upscaled with bicubic.

    Luma is the Y of BT.601 (16 to 235), SSIM that of Wang et al. 2004, the peak 255. Frames are compared in
    order; where one video is longer, those that both have.
    """
    from flashvsr_trt.quality.compare import compare_videos
    from flashvsr_trt.quality.page import ShownFrames, comparison_page
    from flashvsr_trt.quality.report import LABELS, TABLE_COLUMNS, remarks, summarise

    check_outputs({"--json": json_file, "--html": html_file}, (a, b), overwrite)
    shown = ShownFrames()
    texts = {}
    if json_file and json_file != STANDARD_STREAM:
        texts[local_path(json_file)] = json_text
    if html_file:
        texts[local_path(html_file)] = lambda comparison: comparison_page(comparison, shown.chosen())
    with ExitStack() as outputs:
        files = {}
        for name in texts:
            with write_errors(name):
                files[name] = outputs.enter_context(new_file(name, overwrite=overwrite))
        with phase("comparing", "frames") as progress:
            comparison = compare_videos(
                a,
                b,
                notify=say,
                progress=progress,
                watch=shown.add if html_file else None,
            )
        for name, file in files.items():
            with write_errors(name):
                file.file.write(texts[name](comparison).encode("utf-8", "backslashreplace"))
        for name, file in files.items():
            with write_errors(name):
                file.finish()
    if json_file == STANDARD_STREAM:
        click.echo(json_text(comparison), nl=False)
    else:
        print_table(TABLE_COLUMNS, [summarise(comparison.frames, measure) for measure in LABELS])
        for line in remarks(comparison):
            click.echo(line)
    if truncated := [str(error) for error in comparison.truncated if error]:
        raise TruncatedInputError("; ".join(truncated))


def json_text(comparison: "Comparison") -> str:
    from flashvsr_trt.quality.report import comparison_json

    return json.dumps(comparison_json(comparison), indent=2, allow_nan=False) + "\n"
