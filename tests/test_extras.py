"""What pip brings with an extra, by our own metadata, against what the code imports."""

import ast
import functools
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import flashvsr_trt
from flashvsr_trt import extras
from flashvsr_trt.engines.flavours import FLAVOURS
from flashvsr_trt.errors import EXTRAS
from flashvsr_trt.extras import environment_command, install_command, is_installed
from flashvsr_trt.imported_sources import PACKAGE, sources_of

ROOT = Path(__file__).resolve().parents[1]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

MAKES_ENGINES = (
    "flashvsr_trt.cli.engines",
    "flashvsr_trt.export.export_bundle",
    "flashvsr_trt.engines.build",
)
RUNS_ENGINES = ("flashvsr_trt.runtime.tensorrt.open",)

DISTRIBUTIONS = {"cuda": "cuda-python", "google": "protobuf"}
"""Where a module is called otherwise than what brings it."""

NOT_FOR_ENGINES = {"onnxruntime"}
"""What only other backends, and comparisons with them, import."""


@functools.cache
def modules_of(*entries):
    """Top-level modules of other projects that the sources behind some modules import."""
    found = set()
    for path in {path for entry in entries for path in sources_of(entry)}:
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module":
                found |= {
                    name.value.partition(".")[0] for name in node.args if isinstance(name, ast.Constant)
                }
    return found - set(sys.stdlib_module_names) - {PACKAGE} - NOT_FOR_ENGINES


def brought_by(extra, platform="linux"):
    """Distributions that `pip install 'flashvsr-trt[extra]'` asks for, through our own extras."""
    extras, found, waiting = PROJECT["optional-dependencies"], set(), [extra]
    needs = list(PROJECT["dependencies"])
    seen = set()
    while waiting:
        name = waiting.pop()
        seen.add(name)
        needs += extras[name]
        for need in map(Requirement, extras[name]):
            if canonicalize_name(need.name) == PROJECT["name"]:
                waiting += need.extras - seen
    environment = {"platform_system": platform.title(), "sys_platform": platform}
    for need in map(Requirement, needs):
        if need.marker is None or need.marker.evaluate(environment):
            found.add(canonicalize_name(need.name))
    return found


@pytest.mark.parametrize("flavour", FLAVOURS.values(), ids=lambda flavour: flavour.name)
def test_a_flavours_extra_brings_all_that_engines_are_made_and_run_with(flavour):
    brought = brought_by(flavour.extra)
    assert flavour.distribution in brought
    needed = {
        canonicalize_name(DISTRIBUTIONS.get(name, name)) for name in modules_of(*MAKES_ENGINES, *RUNS_ENGINES)
    }
    assert needed - brought == set()
    assert {"torch", "onnx", "onnxscript", "onnx-ir", "triton", "cuda-python"} <= needed


def test_a_missing_part_is_named_with_an_extra_that_brings_it():
    for module, extra in EXTRAS.items():
        assert canonicalize_name(DISTRIBUTIONS.get(module, module)) in brought_by(extra), module


@pytest.mark.parametrize(("platform", "triton"), [("linux", "triton"), ("windows", "triton-windows")])
def test_each_system_gets_its_own_triton(platform, triton):
    assert [name for name in brought_by("kernels", platform) if "triton" in name] == [triton]


def test_in_a_checkout_the_command_names_the_checkout(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    assert install_command("rtx") == 'pip install ".[rtx]"'
    monkeypatch.chdir(tmp_path)
    assert install_command("rtx", "--upgrade") == f'pip install --upgrade "{ROOT}[rtx]"'


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        ({}, 'pip install "flashvsr-trt[cpu]"'),
        ({"url": "file:///gone/a%20b/some.whl", "archive_info": {}}, 'pip install "some.whl[cpu]"'),
        ({"url": "https://example.org/x.whl"}, 'pip install "flashvsr-trt[cpu] @ https://example.org/x.whl"'),
        (
            {"url": "https://example.org/x.git", "vcs_info": {"vcs": "git", "commit_id": "0" * 40}},
            'pip install "flashvsr-trt[cpu] @ git+https://example.org/x.git"',
        ),
    ],
    ids=["index", "wheel that is gone", "address", "repository"],
)
def test_an_installed_package_names_where_it_was_installed_from(monkeypatch, origin, command):
    monkeypatch.setattr(flashvsr_trt, "__path__", flashvsr_trt.__path__[:1])
    monkeypatch.setattr(extras, "_origin", lambda: origin)
    assert install_command("cpu") == command


def test_an_installed_package_names_the_wheel_that_is_there(monkeypatch, tmp_path):
    wheel = tmp_path / "a b" / "some.whl"
    wheel.parent.mkdir()
    wheel.touch()
    monkeypatch.setattr(flashvsr_trt, "__path__", flashvsr_trt.__path__[:1])
    monkeypatch.setattr(extras, "_origin", lambda: {"url": wheel.as_uri()})
    assert install_command("cpu") == f'pip install "{wheel}[cpu]"'


@pytest.mark.parametrize(
    ("platform", "command"),
    [("linux", "python3 -m venv .v && .v/bin/pip"), ("win32", "py -m venv .v && .v\\Scripts\\pip")],
)
def test_an_environment_of_its_own_is_made_as_the_system_does(monkeypatch, platform, command):
    monkeypatch.setattr(sys, "platform", platform)
    assert environment_command(".v", "rtx") == f"{command}{install_command('rtx').removeprefix('pip')}"


@pytest.mark.parametrize(("module", "here"), [("json.decoder", True), ("no_such.part", False)])
def test_a_module_is_here_or_not(module, here):
    assert is_installed(module) is here


def test_a_module_that_an_import_hook_refuses_is_not_here(monkeypatch):
    def refuse(name: str, *_: object) -> None:
        raise ImportError(f"{name} is forbidden here")

    monkeypatch.setattr(sys, "meta_path", [SimpleNamespace(find_spec=refuse)])
    assert not is_installed("no_such")
