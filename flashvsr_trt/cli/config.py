"""`flashvsr-trt config`: options that stay, in a TOML file; the environment and the command line go first."""

import json
import os
import tomllib
from collections.abc import Iterable
from datetime import time
from pathlib import Path
from typing import Any

import click

from flashvsr_trt.cli.commands import (
    CONFIG_VARIABLE,
    Group,
    commands_of,
    config_path,
    key_of,
    options_of,
    variables_of,
)
from flashvsr_trt.cli.options import OVERWRITE
from flashvsr_trt.errors import FileError, UsageError, did_you_mean
from flashvsr_trt.files.new import write_errors, write_text
from flashvsr_trt.files.parents import new_parents

HEADER = """\
# Options of flashvsr-trt. What stands before the first section is for every command that has the option;
# [run], [engines.build] and so on are for one. Variables FLASHVSR_... and the command line go first.
"""


def read_config(root: click.Group) -> dict[str, Any]:
    """click's `default_map` of the file; empty where there is none.

    Raises:
        UsageError: it is no TOML, or names an option or command that there is not.
    """
    path = config_path()
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if os.environ.get(CONFIG_VARIABLE):
            raise UsageError(f"{CONFIG_VARIABLE}={path}: there is no such file; see `config write`") from None
        return {}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{path} cannot be read ({reason}); mend it, or see `config write`") from error
    shared = {name: value for name, value in given.items() if not isinstance(value, dict)}
    known = {key for command in commands_of(root) for key in keys_of(command)}
    for key in sorted(shared.keys() - known):
        raise UsageError(f"{path}: no command has an option {_nearest(key, known)}")
    sections = {name: value for name, value in given.items() if isinstance(value, dict)}
    return _defaults(path, root, "", sections, shared)


def _defaults(
    path: Path, command: click.Command, words: str, section: dict[str, Any], shared: dict[str, Any]
) -> dict[str, Any]:
    """What a section and its own sections say for a command, or a group of them; its words are `words`."""
    if isinstance(command, click.Group):
        for name, value in section.items():
            if name not in command.commands:
                raise UsageError(f"{path}: there is no command {_nearest(name, command.commands)}")
            if not isinstance(value, dict):
                raise UsageError(f"{path}:{words} {name} is a command; write its options in a section of it")
        return {
            name: _defaults(path, each, f"{words} {name}", section.get(name, {}), shared)
            for name, each in command.commands.items()
        }
    keys = keys_of(command)
    for key in section.keys() - keys.keys():
        raise UsageError(f"{path}:{words} has no option {_nearest(key, keys)}")
    chosen = shared | section
    return {
        option.name: _as_typed(option, chosen[key], f"{path}:{words} {key} = {chosen[key]}")
        for key, option in keys.items()
        if key in chosen
    }


def _as_typed(option: click.Option, value: Any, line: str) -> Any:
    """A value as it would be typed, so that an option's type refuses alike what comes from the file."""
    if option.multiple:
        values = value if isinstance(value, list) else [value]
        return [_one_as_typed(each, line, "texts in a list") for each in values]
    if option.is_flag or option.count:
        if not isinstance(value, bool):
            raise UsageError(f"{line} cannot be; write true or false")
        return value
    return _one_as_typed(value, line, "one text or number")


def _one_as_typed(value: Any, line: str, wanted: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float | time):
        raise UsageError(f"{line} cannot be; write {wanted}")
    return str(value)


def keys_of(command: click.Command) -> dict[str, click.Option]:
    """What each option of a command is called in the file: its longest name, without dashes."""
    return {key_of(option): option for option in options_of(command) if not option.hidden}


@click.group(cls=Group)
def config() -> None:
    """Keep options in a file, for every command or for one."""


@config.command()
def where() -> None:
    """Print where the file is, or would be."""
    click.echo(config_path())


@config.command()
@click.pass_context
def show(context: click.Context) -> None:
    """Print what the file and the environment say."""
    root = context.find_root().command
    assert isinstance(root, click.Group)
    path = config_path()
    click.echo(f"# {path}{'' if path.exists() else ' (not there)'}")
    if path.exists():
        read_config(root)  # refused here if it cannot be used
        click.echo(path.read_text(encoding="utf-8").rstrip())
    options = [option for command in commands_of(root) for option in options_of(command)]
    variables = {name for option in options for name in variables_of(option)}
    for name in sorted(variables & os.environ.keys()):
        click.echo(f"# {name}={os.environ[name]}")


@config.command()
@OVERWRITE
@click.pass_context
def write(context: click.Context, overwrite: bool) -> None:
    """Write a file with every option of `run` and its default, all commented out."""
    root = context.find_root().command
    assert isinstance(root, click.Group)
    path = config_path()
    lines = [HEADER, "[run]"]
    for key, option in sorted(keys_of(root.commands["run"]).items()):
        lines.append(f"# {key} = {_toml(option)}".ljust(30) + "  # " + " ".join((option.help or "").split()))
    with new_parents(str(path), FileError), write_errors(path):
        write_text(path, "\n".join(lines) + "\n", overwrite=overwrite)
    click.echo(path)


def _nearest(name: str, known: Iterable[str]) -> str:
    return f"'{name}'; {did_you_mean(name, known, 'see its --help')}"


def _toml(option: click.Option) -> str:
    """The default as TOML; nothing where there is none."""
    if option.multiple:
        return "[]"
    if option.is_flag and option.default is not None:
        return json.dumps(option.default is True)
    return json.dumps(option.default) if isinstance(option.default, str | int | float) else ""
