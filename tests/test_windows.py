"""What Windows lacks is not asked for when a module is imported."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from flashvsr_trt.runtime.torch import host_memory
from tests.test_rooms import MODULES

UNIX_MODULES = {
    "crypt",
    "fcntl",
    "grp",
    "posix",
    "pty",
    "pwd",
    "readline",
    "resource",
    "syslog",
    "termios",
    "tty",
}

UNIX_NAMES = {
    "SIGHUP",
    "SIGKILL",
    "SIGUSR1",
    "SIGUSR2",
    "SIGALRM",
    "geteuid",
    "getuid",
    "getpgid",
    "killpg",
    "fork",
}
"""Of modules `os` and `signal`."""


def run_on_import(node: ast.AST) -> Iterator[ast.AST]:
    """What of a module runs when it is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from run_on_import(child)


def unix_only(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if alias.name in UNIX_MODULES]
    if isinstance(node, ast.ImportFrom):
        return [node.module] if node.module in UNIX_MODULES else []
    if (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("os", "signal")
    ):
        return [node.attr] if node.attr in UNIX_NAMES else []
    return []


@pytest.mark.parametrize(
    "source", ["import resource", "import os\nNUMBER = os.geteuid()", "from fcntl import flock"]
)
def test_what_windows_lacks_is_seen(source):
    assert [name for node in run_on_import(ast.parse(source)) for name in unix_only(node)]


def test_modules_are_imported_without_what_windows_lacks():
    found = {
        f"{name}: {lacked}"
        for name, path in MODULES.items()
        for node in run_on_import(ast.parse(path.read_text(encoding="utf-8")))
        for lacked in unix_only(node)
    }
    assert found == set()


def test_memory_is_kept_by_glibc_alone(monkeypatch):
    """`CDLL(None)`, the program's own symbols, is a TypeError on Windows."""

    def refuse(name):
        raise AssertionError(f"a library was loaded: {Path(str(name))}")

    monkeypatch.setattr(host_memory.ctypes, "CDLL", refuse)
    monkeypatch.setattr(host_memory.sys, "platform", "win32")
    assert not host_memory.keep_freed_memory()
    assert not host_memory.return_freed_memory()
