"""Commands in the pages are there: subcommands, options and their values, targets, modules, extras.

`tests/first_hour/pages.py` (`make first-hour`) runs them on nano.
"""

import ast
import importlib
import re
import tomllib

import click
import pytest

from flashvsr_trt.cli.main import cli
from tests.page_commands import ROOT, page_lines, page_programs

LINES = list(page_lines())

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
    "optional-dependencies"
]
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def check_ours(words: list[str]) -> None:
    """Parse as click does, but do not ask for files and arguments."""
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        flags = [word for word in words if word.startswith("-")]
        if not words or words[0].startswith("-"):
            command.make_parser(context).parse_args(flags)
            return
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, f"there is no command {name}"
        command, context = found, click.Context(found, parent=context)
    if "ignore_unknown_options" in command.context_settings:
        return  # `gate` has its own parser
    values, _, _ = command.make_parser(context).parse_args(list(words))
    for parameter in command.params:
        value = values.get(parameter.name)
        if isinstance(parameter, click.Option) and value and not isinstance(parameter.type, click.Path):
            parameter.type_cast_value(context, value)


def check(words: list[str]) -> None:
    """Raises, or fails, where a part of a command is not there."""
    program, *rest = words
    program = program.rpartition("/")[2]
    if program == "flashvsr-trt":
        check_ours(rest)
    elif program == "make":
        assert {word for word in rest if "=" not in word} <= TARGETS
    elif program in ("python", "python3") and rest[:1] == ["-m"]:
        places = [
            ROOT / f"{rest[1].replace('.', '/')}{end}" for end in (".py", "/__init__.py", "/__main__.py")
        ]
        assert rest[1] in ("venv", "pip", "pytest", "build") or any(place.is_file() for place in places)
    elif program in ("python", "python3") and rest[:1] and rest[0].endswith(".py"):
        assert (ROOT / rest[0]).is_file()
    elif program == "pip":
        named = re.findall(r"\.\[([\w,-]+)\]", " ".join(rest))
        assert {extra for names in named for extra in names.split(",")} <= set(EXTRAS)


@pytest.mark.parametrize("line", LINES, ids=str)
def test_what_a_page_shows_is_there(line):
    for words in line.commands():
        check([word for word in words if not re.fullmatch(r"[A-Z_]+=\S*", word)] or ["true"])


@pytest.mark.parametrize(
    "text",
    [
        ["flashvsr-trt", "run", "input.mp4", "--no-such-option"],
        ["flashvsr-trt", "run", "input.mp4", "--scale", "3"],
        ["flashvsr-trt", "no-such-command"],
        ["make", "no-such-target"],
        ["python", "-m", "bench.no_such_module"],
        ["pip", "install", ".[no-such-extra]"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_is_seen(text):
    with pytest.raises((AssertionError, click.UsageError)):
        check(text)


@pytest.mark.parametrize(("page", "program"), page_programs(), ids=lambda part: part.split("\n")[0])
def test_what_a_program_imports_is_there(page, program):
    imports = [node for node in ast.parse(program).body if isinstance(node, ast.ImportFrom)]
    for node in imports:
        if node.module == "flashvsr_trt.vapoursynth":
            pytest.importorskip("vapoursynth", reason="its wheels are for Python 3.12 and newer")
        module = importlib.import_module(node.module)
        assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []
    assert imports


def test_blocks_are_found():
    assert "README.md" in {page for page, _ in page_programs()}
    assert {line.page for line in LINES} >= {"README.md", "docs/recipes.md", "docs/choosing.md"}
    assert len(LINES) > 40
