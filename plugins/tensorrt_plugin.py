"""The custom nodes as TensorRT quick-deployable plugins, compiled ahead of time.

An engine that is built with them holds the kernels as PTX: it runs in `trtexec` and from C++, with neither
Python nor Triton nor a plugin library. Each plugin is three functions: `describe` its outputs, `tune` (which
types and tactics there are) and `implement` (kernel, launch sizes, integers). TensorRT's parser finds it by
the node's domain and operator. See "Quickly Deployable Plugins" in TensorRT's documentation.
"""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from flashvsr_trt.errors import EngineError, MissingDependencyError
from flashvsr_trt.kernels.manifest import Artifact, evaluate
from flashvsr_trt.plugins.kernel_contract import POINTER_DTYPES, check_contract
from flashvsr_trt.plugins.sparse_attention import DOMAIN, OPERATORS, Operator
from flashvsr_trt.plugins.symbolic_size import Size, unwrapped

TRT_DTYPES = {
    "float": "FLOAT",
    "float16": "HALF",
    "bfloat16": "BF16",
    "int32": "INT32",
    "bool": "BOOL",
    "int8": "INT8",
}
"""ONNX name -> member of `tensorrt.DataType`."""

TYPE_NAMES = {"float": "FP32", "float16": "FP16", "bfloat16": "BF16"} | {
    name: TRT_DTYPES[name] for name in ("int32", "bool", "int8")
}
"""ONNX name -> how `AutoTuneCombination` spells it."""


@dataclass(frozen=True)
class Tactic:
    """One way to run a node: an entry of the tuning table, compiled. Tactics are numbered from 1."""

    artifact: Artifact
    ptx: str


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


def read_tactics(operator: Operator, artifacts: tuple[Artifact, ...], directory: Path) -> tuple[Tactic, ...]:
    """An operator's compiled kernels with their PTX, each checked against the node.

    Raises:
        EngineError: a kernel is not the one that the node calls, or its PTX is missing, or they differ in
            their outputs.
    """
    tactics = []
    for artifact in artifacts:
        path = directory / artifact.ptx
        try:
            ptx = path.read_text()
        except OSError as error:
            raise EngineError(
                f"{path} cannot be read ({error.strerror}): compile the kernels again"
            ) from error
        check_contract(operator, artifact, ptx)
        tactics.append(Tactic(artifact, ptx))
    if len({_output_types(tactic) for tactic in tactics}) != 1:
        raise EngineError(f"the tactics of {plugin_id(operator)} must be some, with the same outputs")
    return tuple(tactics)


def plugin_functions(
    operator: Operator, tactics: tuple[Tactic, ...], trt: ModuleType, plugin: ModuleType
) -> PluginFunctions:
    """The three functions. TensorRT reads their signatures: one argument for each input and attribute.

    Args:
        tactics: of `read_tactics`. A scratch argument of their kernels is one more output, the last, which
            no node has: it is memory that TensorRT then provides.
        trt: `tensorrt`, `plugin`: `tensorrt.plugin`.
    """
    inputs = [port.name for port in operator.inputs]
    attributes = list(operator.attributes)

    def describe(*arguments):
        shapes = _symbolic_shapes(plugin, inputs, arguments)
        values = dict(zip(attributes, arguments[len(inputs) :], strict=True))
        return tuple(
            plugin.from_shape_expr(
                tuple(unwrapped(evaluate(size, shapes, values)) for size in argument.shape),
                getattr(trt.DataType, TRT_DTYPES[POINTER_DTYPES[argument.type]]),
            )
            for argument in tactics[0].artifact.arguments
            if argument.role in ("output", "scratch")
        )

    def tune(*arguments):
        types = [TYPE_NAMES[POINTER_DTYPES[kind]] for kind in _tensor_types(tactics[0])]
        numbers = list(range(1, len(tactics) + 1))
        return [plugin.AutoTuneCombination(", ".join(types), "LINEAR", numbers)]

    def implement(*arguments):
        shapes = _symbolic_shapes(plugin, inputs, arguments)
        *values, _, number = arguments[len(inputs) :]
        tactic = tactics[number - 1]
        return _launch(plugin, tactic, shapes, dict(zip(attributes, values, strict=True)))

    tensor = plugin.TensorDesc
    outputs = tuple[(tensor,) * len(_output_types(tactics[0]))]
    taken = {name: tensor for name in inputs} | {name: int for name in attributes}
    launch = tuple[str | bytes, str | bytes, plugin.KernelLaunchParams, plugin.SymExprs]
    _sign(describe, taken, outputs)
    _sign(tune, taken | {"outputs": outputs}, list[plugin.AutoTuneCombination])
    _sign(implement, taken | {"outputs": outputs, "tactic": int}, launch)
    return PluginFunctions(describe, tune, implement)


def _launch(
    plugin: ModuleType, tactic: Tactic, shapes: Mapping[str, list[Size]], values: Mapping[str, int]
) -> tuple[str, str, Any, Any]:
    artifact = tactic.artifact
    launch = plugin.KernelLaunchParams()
    grid = [unwrapped(evaluate(size, shapes, values)) for size in artifact.grid]
    launch.grid_x, launch.grid_y, launch.grid_z = grid
    launch.block_x = artifact.block
    launch.shared_mem = artifact.shared_bytes
    numbers = [argument.value for argument in artifact.arguments if argument.role == "int"]
    extra = plugin.SymIntExprs(len(numbers))
    for position, expression in enumerate(numbers):
        extra[position] = plugin.SymInt32(unwrapped(evaluate(expression, shapes, values)))
    return artifact.entry, tactic.ptx, launch, extra


def _symbolic_shapes(plugin: ModuleType, names: list[str], arguments: tuple) -> dict[str, list[Size]]:
    """Each input's dimensions. Arguments past the inputs are none of them."""
    return {
        name: [Size(dimension, plugin.ShapeExpr) for dimension in tensor.shape_expr]
        for name, tensor in zip(names, arguments, strict=False)
    }


def _tensor_types(tactic: Tactic) -> list[str]:
    """Types of inputs and outputs, in order."""
    return [argument.type for argument in tactic.artifact.arguments if argument.role != "int"]


def _output_types(tactic: Tactic) -> tuple[str, ...]:
    return tuple(item.type for item in tactic.artifact.arguments if item.role in ("output", "scratch"))


def _sign(function: Callable[..., Any], arguments: Mapping[str, Any], returned: Any) -> None:
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind, annotation=taken) for name, taken in arguments.items()]
    function.__signature__ = inspect.Signature(parameters, return_annotation=returned)


def _load(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"the sparse-attention plugins need {module} ({error}): pip install 'flashvsr-trt[tensorrt]'"
        ) from error
