"""The custom nodes as TensorRT quick-deployable plugins, compiled ahead of time.

An engine that is built with them holds the kernels as PTX: it runs in `trtexec` and from C++, with neither
Python nor Triton nor a plugin library. Each plugin is three functions: `describe` its outputs, `tune` (which
types and tactics there are) and `implement` (kernel, launch sizes, integers). TensorRT's parser finds it by
the node's domain and operator. See "Quickly Deployable Plugins" in TensorRT's documentation.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy

from flashvsr_trt.errors import EngineError, MissingDependencyError
from flashvsr_trt.extras import install_command
from flashvsr_trt.kernels.manifest import Argument, Artifact, evaluate
from flashvsr_trt.plugins.sparse_attention import DOMAIN, OPERATORS, Operator
from flashvsr_trt.plugins.tactics import POINTER_DTYPES, Tactic, read_tactics

TRT_DTYPES = {
    "float": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int32": "INT32",
    "bool": "BOOL",
}
"""ONNX name -> member of `tensorrt.DataType`."""

TYPE_NAMES = {"float": "FP32", "float16": "FP16", "bfloat16": "BF16"} | {
    name: TRT_DTYPES[name] for name in ("int32", "bool")
}
"""ONNX name -> how `AutoTuneCombination` spells it."""

ATTRIBUTE = numpy.ndarray[tuple[Any, ...], numpy.dtype[numpy.int64]]
"""An integer attribute as TensorRT hands it over: an array of one.

Declared as `int`, TensorRT before 11.2 would make one of the array, in a way that numpy 2.4 refuses.
"""


@dataclass(frozen=True)
class PluginFunctions:
    """What `tensorrt.plugin` registers for one operator, with the signatures that it asks for."""

    describe: Callable[..., Any]
    tune: Callable[..., Any]
    implement: Callable[..., Any]


_registered: dict[str, tuple[str, ...]] = {}
"""Plugin -> hashes of its tactics: TensorRT keeps a plugin for as long as the process lives."""


def register_plugins(kernels: Mapping[str, tuple[Artifact, ...]], directory: Path) -> None:
    """Register a plugin for every operator, before a graph that has such nodes is parsed.

    Args:
        kernels: operator name -> its compiled kernels, all for the device that is built on and one dtype.
        directory: where their PTX is.

    Raises:
        MissingDependencyError: TensorRT, or its plugin module, is not installed.
        EngineError: a kernel is not the one that the node calls, or other ones were registered already.
    """
    trt, plugin = _load("tensorrt"), _load("tensorrt.plugin")
    for operator in OPERATORS:
        identity = plugin_id(operator)
        hashes = tuple(artifact.hash for artifact in kernels[operator.name])
        if _registered.get(identity) == hashes:
            continue
        if identity in _registered:
            raise EngineError(
                f"{identity} is registered with other kernels in this process; for another precision or "
                "network build in a process of its own"
            )
        functions = plugin_functions(
            operator, read_tactics(operator, kernels[operator.name], directory), trt, plugin
        )
        plugin.register(identity)(functions.describe)
        plugin.autotune(identity)(functions.tune)
        plugin.aot_impl(identity)(functions.implement)
        _registered[identity] = hashes


def plugin_id(operator: Operator) -> str:
    """As TensorRT spells it: "flashvsr::select_blocks"."""
    return f"{DOMAIN}::{operator.name}"


def plugin_functions(
    operator: Operator, tactics: tuple[Tactic, ...], trt: ModuleType, plugin: ModuleType
) -> PluginFunctions:
    """The three functions. TensorRT reads their signatures: one argument for each input and attribute.

    Args:
        tactics: of `read_tactics`. A scratch argument of their kernels is one more output, the last, which
            no node has: it is memory that TensorRT then provides.
        trt: `tensorrt`, `plugin`: `tensorrt.plugin`.
    """
    tensor = plugin.TensorDesc
    outputs = tuple[(tensor,) * len(_output_arguments(tactics[0]))]
    taken = {port.name: tensor for port in operator.inputs} | dict.fromkeys(operator.attributes, ATTRIBUTE)
    launch = tuple[str | bytes, str | bytes, plugin.KernelLaunchParams, plugin.SymExprs]

    def describe(node: _NodeCall):
        return tuple(
            plugin.from_shape_expr(
                tuple(node.evaluate(size) for size in argument.shape),
                getattr(trt.DataType, TRT_DTYPES[POINTER_DTYPES[argument.type]]),
            )
            for argument in _output_arguments(tactics[0])
        )

    def tune(node: _NodeCall):
        types = [TYPE_NAMES[POINTER_DTYPES[kind]] for kind in _tensor_types(tactics[0])]
        numbers = list(range(1, len(tactics) + 1))
        return [plugin.AutoTuneCombination(", ".join(types), "LINEAR", numbers)]

    def implement(node: _NodeCall):
        return _launch(plugin, tactics[node.arguments["tactic"] - 1], node)

    def signed(function: Callable[..., Any], arguments: Mapping[str, Any], returned: Any):
        return _signed(function, operator, plugin, arguments, returned)

    return PluginFunctions(
        signed(describe, taken, outputs),
        signed(tune, taken | {"outputs": outputs}, list[plugin.AutoTuneCombination]),
        signed(implement, taken | {"outputs": outputs, "tactic": int}, launch),
    )


@dataclass(frozen=True)
class _NodeCall:
    """What TensorRT said in one call: arguments by name, sizes and attributes as symbolic dimensions."""

    arguments: Mapping[str, Any]
    shapes: Mapping[str, Sequence[Any]]
    values: Mapping[str, Any]
    symbolic: Callable[[int], Any]

    def evaluate(self, expression: str) -> Any:
        # Symbolic dimensions take an integer on their right only, so every number becomes one.
        return evaluate(expression, self.shapes, self.values, self.symbolic)


def _signed(
    function: Callable[[_NodeCall], Any],
    operator: Operator,
    plugin: ModuleType,
    parameters: Mapping[str, Any],
    returned: Any,
) -> Callable[..., Any]:
    """A function of a node as TensorRT calls it: it reads the signature, and gives what that has in any way.

    It describes with attributes by keyword, and tunes and implements with them by position.
    """
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    taken = [inspect.Parameter(name, kind, annotation=type_) for name, type_ in parameters.items()]
    signature = inspect.Signature(taken, return_annotation=returned)

    def called(*positional: Any, **named: Any) -> Any:
        arguments = signature.bind(*positional, **named).arguments
        symbolic = plugin.ShapeExpr
        shapes = {port.name: arguments[port.name].shape_expr for port in operator.inputs}
        integers = {name: int(numpy.asarray(arguments[name]).item()) for name in operator.attributes}
        values = {name: symbolic(integer) for name, integer in integers.items()}
        return function(_NodeCall(arguments, shapes, values, symbolic))

    called.__name__ = f"{operator.name}_{function.__name__}"
    called.__signature__ = signature
    return called


def _launch(plugin: ModuleType, tactic: Tactic, node: _NodeCall) -> tuple[str, str, Any, Any]:
    artifact = tactic.artifact
    launch = plugin.KernelLaunchParams()
    launch.grid_x, launch.grid_y, launch.grid_z = (node.evaluate(size) for size in artifact.grid)
    launch.block_x = artifact.block
    launch.shared_mem = artifact.shared_bytes
    numbers = [argument.value for argument in artifact.arguments if argument.role == "int"]
    extra = plugin.SymIntExprs(len(numbers))
    for position, expression in enumerate(numbers):
        extra[position] = plugin.SymInt32(node.evaluate(expression))
    return artifact.entry, tactic.ptx, launch, extra


def _tensor_types(tactic: Tactic) -> list[str]:
    """Types of inputs and outputs, in order."""
    return [argument.type for argument in tactic.artifact.arguments if argument.role != "int"]


def _output_arguments(tactic: Tactic) -> list[Argument]:
    return [item for item in tactic.artifact.arguments if item.role in ("output", "scratch")]


def _load(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"the sparse-attention plugins need {module} ({error}): {install_command('tensorrt')}"
        ) from error
