"""Commands whose help has groups, and that all take the display's options, the environment and a config."""

import copy
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from platformdirs import user_config_path

from flashvsr_trt.cli.display import DISPLAY, LOG, STYLES, LogFile, say
from flashvsr_trt.errors import FlashVSRError, did_you_mean
from flashvsr_trt.runtime.distributed.place import torchrun_place

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
    *("help", "output", "json_file", "as_json", "html_file", "profile", "preview", "list_codecs"),
    *("verbose", "quiet", "debug", "budgets", "weights"),
)
"""Options of one call and of its own files; and the weights, whose loader reads FLASHVSR_WEIGHTS itself."""

PREFIX = "FLASHVSR_"

CONFIG_VARIABLE = "FLASHVSR_CONFIG"

VARIABLES = frozenset(
    PREFIX + name for name in ("CACHE", "CONFIG", "DEBUG_RANKS", "PROMPT", "TRT_COMPLETE", "WEIGHTS")
)
"""Those that belong to no option."""

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
        self.params += DISPLAY_OPTIONS
        for option in options_of(self):
            # As the option is spelled, and as its value is called in Python.
            names = (key_of(option).replace("-", "_"), option.name)
            option.envvar = [PREFIX + name.upper() for name in dict.fromkeys(names)]
        self.epilog = self.epilog or ADVICE

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with _origins_said(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        root = ctx.find_root().command
        # Of several ranks' processes the one that started them says it.
        for line in unknown_variables(root) if isinstance(root, click.Group) and not torchrun_place() else ():
            say(line)
        with _origins_said(ctx):
            return super().invoke(ctx)

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


@contextmanager
def _origins_said(context: click.Context) -> Iterator[None]:
    """An expected error tells of what it is about where that was given, unless as an argument."""
    try:
        yield
    except click.BadParameter as error:
        if error.param and (origin := _origin(context, error.param)):
            error.add_note(f"(from {origin})")
        raise
    except FlashVSRError as error:
        for origin, words in _given_elsewhere(context):
            named = "|".join(map(re.escape, words))
            if re.search(rf"(?<![\w-])-*({named})(?![\w-])", str(error), re.IGNORECASE):
                error.add_note(f"(from {origin})")
        raise


def _given_elsewhere(context: click.Context) -> Iterator[tuple[str, list[str]]]:
    """Where options were given, and the words by which an error is about each: its name, texts of it."""
    for option in context.command.get_params(context):
        if isinstance(option, click.Option) and (origin := _origin(context, option)):
            value = context.params.get(option.name or "")
            several = value.values() if isinstance(value, dict) else value
            values = several if option.multiple else [value]
            texts = [each for each in values or () if isinstance(each, str) and each != option.default]
            yield origin, [key_of(option), *texts]
    for variable in ("FLASHVSR_PROMPT", "FLASHVSR_WEIGHTS"):
        if value := os.environ.get(variable):
            yield variable, [value]


def _origin(context: click.Context, option: click.Parameter) -> str | None:
    """The variable, or the key and the file; None for an argument and a default."""
    match context.get_parameter_source(option.name or ""):
        case ParameterSource.ENVIRONMENT:
            return next(name for name in variables_of(option) if os.environ.get(name))
        case ParameterSource.DEFAULT_MAP:
            return f"{key_of(option)} in {config_path()}"
    return None


def config_path() -> Path:
    """The file that FLASHVSR_CONFIG names, or the one in the user's folder of settings."""
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else user_config_path("flashvsr-trt", appauthor=False) / "config.toml"


def options_of(command: click.Command) -> list[click.Option]:
    """Those that may come from the environment and the config."""
    options = [each for each in command.params if isinstance(each, click.Option)]
    return [each for each in options if each.name not in WITHOUT_ENVIRONMENT]


def commands_of(group: click.Group) -> Iterator[Command]:
    """Every command below a group; `gate`, which reads its own options, is left out."""
    for command in group.commands.values():
        if isinstance(command, click.Group):
            yield from commands_of(command)
        elif isinstance(command, Command):
            yield command


def unknown_variables(root: click.Group) -> list[str]:
    """A line for each variable FLASHVSR_... of the environment that nothing reads."""
    given = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in VARIABLES)
    if not given:
        return []
    options = [option for command in commands_of(root) for option in options_of(command)]
    known = {name for option in options for name in variables_of(option)} | VARIABLES
    return [
        f"{name} is not read: {did_you_mean(name, known, 'no option has that name', PREFIX)}"
        for name in given
        if name not in known
    ]


def variables_of(option: click.Parameter) -> list[str]:
    """The names of the variables that an option is read from; the first that says something counts."""
    return list(option.envvar or ())


def key_of(option: click.Parameter) -> str:
    """An option's longest name that is no old spelling, without dashes."""
    aliases = getattr(option, "aliases", ())
    return max((name for name in option.opts if name not in aliases), key=len).lstrip("-")


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
        help="How messages and progress are shown; json: an object a line, on stderr.  [default: auto]",
    ),
    click.Option(
        ["-v", "--verbose"],
        count=True,
        show_default=False,
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
        help="Append what -v shows here, whatever is shown; with -vv, everything.",
    ),
    click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error."),
)
