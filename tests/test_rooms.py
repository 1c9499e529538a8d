"""Rooms import what stands below them, and no import is lazy because of a cycle. Read from the sources."""

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

ROOMS = ("flashvsr_trt", "kernels", "plugins", "model", "export", "engines", "runtime")

ORDER = (
    ("", "errors", "extras", "notices", "signals", "imported_sources", "config", "cache.folder"),
    ("files", "cache.entries", "memory", "process_memory", "stage_memory"),
    ("bundle", "kernels"),
    ("plugins", "model"),
    ("export",),
    ("engines",),
    ("cache",),
    ("runtime",),
    # Checks of engines run them.
    ("engines.verify", "quality", "upscaler", "vapoursynth"),
    ("parity",),
    ("cli", "__main__"),
)
"""Rooms and modules; the longest name counts. Those of one row import each other and the rows above it."""


def module_name(path: Path) -> str:
    """The name within the package: `runtime.session`; the package itself is ""."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part not in ("flashvsr_trt", "__init__"))


MODULES = {module_name(path): path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))}


def imported(name: str) -> Iterator[str]:
    """All modules of ours that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: write imports from the package's name on"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in found:
            package, _, rest = full.partition(".")
            if package == "flashvsr_trt":
                yield rest if rest in MODULES else rest.rpartition(".")[0]


IMPORTS = {name: set(imported(name)) - {name} for name in MODULES}


def row(name: str) -> int:
    """The row of ORDER that has the longest part of the name."""
    while True:
        for number, rooms in enumerate(ORDER):
            if name in rooms:
                return number
        if "." not in name:
            raise AssertionError(f"{name} stands in no row of ORDER")
        name = name.rpartition(".")[0]


def test_every_import_is_of_a_module_that_is_there():
    assert not {(name, other) for name, found in IMPORTS.items() for other in found if other not in MODULES}


@pytest.mark.parametrize("name", MODULES, ids=lambda name: name or "flashvsr_trt")
def test_a_module_imports_what_stands_below_it(name):
    assert [other for other in IMPORTS[name] if row(other) > row(name)] == []


def test_there_is_no_cycle_even_among_lazy_imports():
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {' -> '.join(error.args[1])}")
