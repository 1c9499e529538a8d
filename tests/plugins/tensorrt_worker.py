"""Registers the plugins with TensorRT's own Python classes, and calls these as TensorRT's builder does.

A program of its own: TensorRT's native module is loaded here, and keeps plugins as long as the process lives.
It reads a job as JSON on its standard input, and writes what TensorRT was told as JSON to the file of its
only argument. Real are the native module, from 11 on its registry, and `tensorrt/plugin/*.py`; doubled is
what `builder_double.py` says, and the builder, whose calls are `NodeInBuilder`.
"""

import importlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from flashvsr_trt.kernels.tuning import PLAIN_SHARED_LIMIT, SHARED_LIMIT
from flashvsr_trt.plugins import tensorrt_plugin
from flashvsr_trt.plugins.op_kernels import OperatorKernels
from flashvsr_trt.plugins.sparse_attention import DOMAIN
from flashvsr_trt.plugins.tensorrt_plugin import register_plugins
from tests.plugins.builder_double import ExpressionBuilder, ExtraArguments, LaunchParameters, Registry

FIRST_NATIVE_REGISTRY = 11
"""The stand-in libraries are of this age: older bindings crash in their registry."""


def load_tensorrt() -> Any:
    """The bindings' package under the name that TensorRT's own package gives it."""
    trt = importlib.import_module("tensorrt_bindings")
    sys.modules["tensorrt"] = trt
    sys.modules["tensorrt.plugin"] = importlib.import_module("tensorrt_bindings.plugin")
    if int(trt.__version__.split(".")[0]) < FIRST_NATIVE_REGISTRY:
        registry = Registry()
        trt.get_plugin_registry = lambda: registry
    return trt


@dataclass
class NodeInBuilder:
    """One ONNX node with a plugin, from the parser to the engine.

    The order of calls is that of the parser (`loadFields`, `createPlugin` of onnx-tensorrt) and the builder:
    types, shapes, formats with tactics, then for each tactic the launch and the kernel.
    """

    trt: Any
    operator: str
    inputs: dict[str, tuple[str, list[int]]]
    attributes: dict[str, int]
    builder: ExpressionBuilder
    described: list[Any] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        trt = self.trt
        plugin = self._created()
        kinds = [getattr(trt.DataType, kind) for kind, _ in self.inputs.values()]
        shapes = [shape for _, shape in self.inputs.values()]
        outputs = plugin.get_output_data_types(kinds, [len(shape) for shape in shapes])
        assert len(outputs) == plugin.get_num_outputs()
        expressions = [[self.builder.constant(side) for side in shape] for shape in shapes]
        plugin.get_output_shapes(expressions, [], self.builder)
        out_shapes = [[side.constant_value() for side in desc.shape_expr] for desc in plugin.output_descs]
        tensors = [self._tensor(*pair) for pair in zip(kinds + outputs, shapes + out_shapes, strict=True)]
        offered = plugin.get_supported_format_combinations(tensors, len(shapes))
        assert [(o.type, o.format) for o in offered] == [(t.desc.type, t.desc.format) for t in tensors]
        plugin.configure_plugin(tensors[: len(shapes)], tensors[len(shapes) :])
        tactics = plugin.get_valid_tactics()
        launches = [self._launch(plugin.clone(), tactic, expressions, tensors) for tactic in tactics]
        return {
            "outputs": [[kind.name, shape] for kind, shape in zip(outputs, out_shapes, strict=True)],
            "aliased": [plugin.get_aliased_input(place) for place in range(len(outputs))],
            "tactics": tactics,
            "launches": launches,
        }

    def _created(self) -> Any:
        """As the parser does: an ONNX INT becomes an array of one int32, whatever type was declared."""
        trt = self.trt
        creator = trt.get_plugin_registry().get_creator(self.operator, "1", DOMAIN)
        fields = [
            trt.PluginField(
                field.name, np.array([self.attributes[field.name]], np.int32), trt.PluginFieldType.INT32
            )
            for field in creator.field_names
            if field.name in self.attributes
        ]
        assert len(fields) == len(self.attributes)
        return creator.create_plugin(
            self.operator,
            DOMAIN,
            trt.PluginFieldCollection(fields),
            trt.TensorRTPhase.BUILD,
            trt.QuickPluginCreationRequest.PREFER_AOT,
        )

    def _tensor(self, kind: Any, shape: list[int]) -> Any:
        tensor = self.trt.DynamicPluginTensorDesc()
        tensor.desc.type, tensor.desc.format = kind, self.trt.TensorFormat.LINEAR
        tensor.desc.dims = tensor.min = tensor.max = tensor.opt = self.trt.Dims(shape)
        return tensor

    def _launch(self, plugin: Any, tactic: int, expressions: Any, tensors: list[Any]) -> dict[str, Any]:
        plugin.set_tactic(tactic)
        launch, extra = LaunchParameters(self.trt), ExtraArguments(self.trt)
        count = len(expressions)
        plugin.get_launch_params(expressions, tensors, count, launch, extra, self.builder)
        descs = [tensor.desc for tensor in tensors]
        name, code = plugin.get_kernel(descs[:count], descs[count:])
        return {
            "kernel": name,
            "code": code.decode(),
            "launch": {field: value_of(getattr(launch, field)) for field in LaunchParameters.FIELDS},
            "ints": [value_of(number) for number in extra],
        }


def value_of(symbolic: Any) -> int:
    """The value of an `ISymExpr`, which a kernel takes as a 32-bit integer."""
    assert symbolic.told["type"].name == "INT"
    assert symbolic.told["dtype"].name == "INT32"
    return symbolic.told["expr"].get_constant_value()


def remember_symbols(trt: Any) -> None:
    """The attributes of an `ISymExpr` can be set, and not read: what they were set to is kept beside them."""

    def kept(name: str) -> property:
        native = getattr(trt.ISymExpr, name)

        def tell(symbolic: Any, value: Any) -> None:
            native.fset(symbolic, value)
            symbolic.__dict__.setdefault("told", {})[name] = value

        return property(None, tell)

    implementation = importlib.import_module("tensorrt_bindings.plugin._tensor").SymExprImpl
    for name in ("type", "dtype", "expr"):
        setattr(implementation, name, kept(name))


def main() -> None:
    job = json.load(sys.stdin)
    trt = load_tensorrt()
    remember_symbols(trt)
    if job.get("declare_int"):
        tensorrt_plugin.ATTRIBUTE = int
    limit = SHARED_LIMIT[job["architecture"]] if job["large"] else PLAIN_SHARED_LIMIT
    folder = Path(job["kernels"])
    known = OperatorKernels(job["architecture"], job["precision"], job["head_dim"])
    kernels = known.read(folder, limit)
    register_plugins(kernels, folder)
    builder = ExpressionBuilder(trt)
    found = [
        NodeInBuilder(trt, node["operator"], node["inputs"], node["attributes"], builder).run()
        for node in job["nodes"]
    ]
    Path(sys.argv[1]).write_text(json.dumps({"version": trt.__version__, "nodes": found}))


if __name__ == "__main__":
    main()
