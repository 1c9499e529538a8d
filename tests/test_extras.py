"""What pip brings with an extra, by our own metadata, against what the code imports."""

import ast
import functools
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flashvsr_trt.engines.flavours import FLAVOURS
from flashvsr_trt.errors import INSTALLED_BY
from flashvsr_trt.imported_sources import PACKAGE, sources_of

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

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
    for module, command in INSTALLED_BY.items():
        if not command.startswith("'flashvsr-trt["):
            continue
        extra = command.partition("[")[2].partition("]")[0]
        distribution = canonicalize_name(DISTRIBUTIONS.get(module, module))
        assert distribution in brought_by(extra), command
