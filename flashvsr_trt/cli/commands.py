"""Commands whose help has groups, and that all take the display's options, the environment and a config."""

import copy
import logging
from pathlib import Path
from typing import Any

import click

from flashvsr_trt.cli.display import DISPLAY, LOG, STYLES, LogFile

GROUPS = {
    "Input": "start end duration ss to t frames rate raw_size raw_format deinterlace fit resume",
    "Output": "output overwrite json_file html_file preview side_by_side",
    "Encoding": "codec crf pixel_format encoder_options container audio_codec subtitle_codec threads"
    " list_codecs",
    "Picture": "preset scale size input_size color_fix upsampler seed weights",
    "Speed": "precision dtype schedule chunk_size attention calibration compile cuda_graphs kv_cache",
    "Where it runs": "backend device gpus tile vram build flavour engines profile arch",
    "Display": "progress verbose quiet log_file debug help",
}
"""Heading -> names of options, as the help shows them; others stand in front."""

GROUP_OF = {name: heading for heading, names in GROUPS.items() for name in names.split()}

WITHOUT_ENVIRONMENT = (
    *("help", "output", "json_file", "as_json", "html_file", "profile", "preview"),
    *("weights", "list_codecs"),
)
"""Options of one command's own files; and the weights, whose loader reads FLASHVSR_WEIGHTS itself."""

ADVICE = (
    "Options may come from the environment too (FLASHVSR_PRESET for --preset) and from a file: see "
    "`flashvsr-trt config --help`."
)


class Option(click.Option):
    """An option whose old spellings are taken and not shown."""

    def __init__(self, declarations: Any, aliases: tuple[str, ...] = (), **attributes: Any) -> None:
        super().__init__([*declarations, *aliases], **attributes)
        self.aliases = aliases

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        shown = copy.copy(self)
        shown.opts = [name for name in self.opts if name not in self.aliases]
        return super(Option, shown).get_help_record(ctx)


class Command(click.Command):
    """A command with DISPLAY_OPTIONS; its options have variables FLASHVSR_..., and its help has GROUPS."""

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        for option in options_of(self):
            option.envvar = option.envvar or f"FLASHVSR_{option.name}".upper()
        self.epilog = self.epilog or ADVICE

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*self.params, *DISPLAY_OPTIONS, *super().get_params(ctx)[len(self.params) :]]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {"Options": [], **{heading: [] for heading in GROUPS}}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):
                sections[GROUP_OF.get(parameter.name or "", "Options")].append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class Group(click.Group):
    """A group whose commands are as above."""

    command_class = Command
    group_class = type


def options_of(command: click.Command) -> list[click.Option]:
    """Those that may come from the environment and the config."""
    options = [each for each in command.params if isinstance(each, click.Option)]
    return [each for each in options if each.name not in WITHOUT_ENVIRONMENT]


def _set_style(context: click.Context, option: click.Parameter, style: str | None) -> None:
    DISPLAY.style = style or DISPLAY.style


def _louder(context: click.Context, option: click.Parameter, count: int) -> None:
    DISPLAY.verbosity += count
    if DISPLAY.verbosity > 1:
        LOG.setLevel(logging.DEBUG)


def _quiet(context: click.Context, option: click.Parameter, quiet: bool) -> None:
    if quiet:
        DISPLAY.verbosity = -1


def _log_to(context: click.Context, option: click.Parameter, name: str | None) -> None:
    if name and not any(isinstance(handler, LogFile) for handler in LOG.handlers):
        LOG.addHandler(LogFile(Path(name)))


DISPLAY_OPTIONS: tuple[click.Option, ...] = (
    click.Option(
        ["--progress"],
        type=click.Choice(STYLES),
        callback=_set_style,
        expose_value=False,
        envvar="FLASHVSR_PROGRESS",
        help="How messages and progress are shown; json: an object a line, on stderr.  [default: auto]",
    ),
    click.Option(
        ["-v", "--verbose"],
        count=True,
        callback=_louder,
        expose_value=False,
        help="Show what builders say too; -vv: everything.",
    ),
    click.Option(
        ["-q", "--quiet"], is_flag=True, callback=_quiet, expose_value=False, help="Show errors alone."
    ),
    click.Option(
        ["--log-file"],
        metavar="FILE",
        callback=_log_to,
        expose_value=False,
        envvar="FLASHVSR_LOG_FILE",
        help="Append what -v shows here, whatever is shown; with -vv, everything.",
    ),
    click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error."),
)
