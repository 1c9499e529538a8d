"""Which of this project's source files a module runs: itself, and what it imports, directly or not."""

import ast
import functools
import hashlib
import importlib.util
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

PACKAGE = "flashvsr_trt"


@functools.cache
def sources_of(module: str) -> tuple[Path, ...]:
    """The files of a module and of all modules of this project that it imports, at its top or later; sorted.

    Nothing is run but the outermost package's `__init__`. Data files and modules of others are left out.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            spec = _spec(name)
            if spec is None or spec.origin is None:
                raise ModuleNotFoundError(f"no source of {name} is installed")
            found[name] = Path(spec.origin)
            waiting += _imported_by(found[name], name)
    return tuple(sorted(set(found.values())))


@functools.cache
def sources_digest(module: str) -> str:
    """SHA-256 of `sources_of`: another one where any of them was changed, whatever their folder is."""
    digest = hashlib.sha256()
    for path in sources_of(module):
        source = path.read_bytes()
        digest.update(f"{path.parent.name}/{path.name} {len(source)}\n".encode() + source)
    return digest.hexdigest()


def _imported_by(path: Path, importer: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                raise ValueError(f"{importer} imports {origin or '.'} relatively; write its whole name")
            names = [origin, *(f"{origin}.{alias.name}" for alias in node.names)]
        else:
            continue
        ours = [name for name in names if name.split(".")[0] == PACKAGE]
        yield from (name for name in ours if _spec(name))


@functools.cache
def _spec(name: str) -> ModuleSpec | None:
    """Where a module is; None for a name that is none. Rooms are not run: one may need what is missing."""
    outer = name.rpartition(".")[0]
    if not outer:
        return importlib.util.find_spec(name)
    package = _spec(outer)
    if package is None or package.submodule_search_locations is None:
        return None
    # The package itself has the rooms of a checkout added.
    places = package.submodule_search_locations
    if package.name == PACKAGE:
        places = importlib.import_module(PACKAGE).__path__
    return PathFinder.find_spec(name, places)
