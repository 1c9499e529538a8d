"""Surgery on exported graphs: one change a function, each on an onnx_ir model in place."""

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes import common
from onnx_ir.tape import Tape
from onnxscript.optimizer import fold_constants_ir
from onnxscript.rewriter import RewritePass
from onnxscript.rewriter.rules import common as rules

from flashvsr_trt.plugins.block_sparse_attention_function import block_sparse_attention
from flashvsr_trt.plugins.select_blocks_function import select_blocks
from flashvsr_trt.plugins.sparse_attention import (
    BLOCK_SPARSE_ATTENTION,
    DOMAIN,
    DOMAIN_VERSION,
    SELECT_BLOCKS,
)

STAGE_PREFIX = "stage."
NAME_SCOPES = "pkg.torch.onnx.name_scopes"

FOLDED_ELEMENTS = 1 << 14
"""Covers a block's modulation vectors and index tables; larger constants stay in the weights file."""

SIMPLIFICATIONS = (
    *rules.mul_by_1_rule.commute(),
    *rules.add_0_rule.commute(),
    rules.sub_0_rule,
    rules.div_by_1_rule,
    rules.two_reshapes_matmul_reshape_rule,
    rules.one_reshape_matmul_reshape_rule,
    rules.cast_constant_of_shape_rule,
    rules.cast_constant_of_shape_without_value_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.min_max_rule,
    rules.max_min_rule,
    rules.successive_clip_rule,
    rules.cast_cast_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.reshape_reshape_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.squeeze_reshape_1d_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,
)
"""onnxscript's rules for operators that the stages have, in its own order. One it has besides is left out:
`slice_split_rule` reads the whole graph again for each node."""

FOLD_ROUNDS = 2
"""What rules simplify leaves more to fold."""

SLICE_RANGES, SLICE_AXES = 4, 2
"""Inputs of a Slice after its data: starts, ends, axes and steps."""

FUNCTIONS = {SELECT_BLOCKS.name: select_blocks, BLOCK_SPARSE_ATTENTION.name: block_sparse_attention}


def name_weights(model: ir.Model, names: Mapping[int, str]) -> None:
    """Give every weight the name it has in the weights file, by the address of its data."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        address = data_address(value)
        name = names.get(address) if address is not None else None
        if name is not None and name != value.name:
            graph.initializers.pop(str(value.name))
            value.name = name
            graph.register_initializer(value)


def data_address(value: ir.Value) -> int | None:
    """Where the data of an initializer that is a torch tensor lies; None for any other."""
    tensor = getattr(value.const_value, "raw", None)
    return tensor.data_ptr() if isinstance(tensor, torch.Tensor) else None


def fold_weight_reshapes(model: ir.Model) -> None:
    """A weight that is only reshaped is stored in that shape: its bytes are the same."""
    graph = model.graph
    for node in list(graph):
        if node.op_type not in ("Reshape", "Squeeze", "Unsqueeze"):
            continue
        weight, reshaped = node.inputs[0], node.outputs[0]
        if weight is None or not weight.is_initializer() or len(weight.uses()) > 1:
            continue
        tensor = getattr(weight.const_value, "raw", None)
        if not isinstance(tensor, torch.Tensor):
            continue
        if reshaped.shape is None or reshaped.is_graph_output():
            continue
        view = tensor.view(reshaped.shape.numpy())
        weight.const_value = ir.tensor(view, name=weight.name)
        weight.shape = reshaped.shape
        reshaped.replace_all_uses_with(weight)
        graph.remove(node, safe=True)


def fold_constants(model: ir.Model) -> None:
    """Evaluate what depends on small constants alone, and drop what is unused or computed twice.

    The passes of `onnxscript.optimizer.optimize_ir`, which takes no choice of rules.
    """
    common.InlinePass()(model)
    for _ in range(FOLD_ROUNDS):
        fold_constants_ir(
            model,
            onnx_shape_inference=True,
            input_size_limit=FOLDED_ELEMENTS,
            output_size_limit=FOLDED_ELEMENTS,
        )
        RewritePass(SIMPLIFICATIONS)(model)
        common.RemoveUnusedNodesPass()(model)
    ir.passes.Sequential(
        common.RemoveUnusedFunctionsPass(),
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


def merge_slices(model: ir.Model) -> None:
    """Slices of one another along different axes become one: TensorRT makes a copy for each of a chain."""
    for node in list(model.graph):
        source = node.inputs[0] if node.op_type == "Slice" else None
        inner = source.producer() if source else None
        if inner is None or inner.op_type != "Slice" or len(inner.outputs[0].uses()) > 1:
            continue
        ranges = [_constant_ranges(each) for each in (inner, node)]
        complete = all(len(values) == SLICE_RANGES for values in ranges)
        if not complete or set(ranges[0][SLICE_AXES]) & set(ranges[1][SLICE_AXES]):
            continue
        merged = [
            ir.tensor(np.array(first + second, np.int64), name=f"{node.outputs[0].name}_{name}")
            for name, first, second in zip(("starts", "ends", "axes", "steps"), *ranges, strict=True)
        ]
        tape = Tape(model.graph)
        for at, tensor in enumerate(merged, start=1):
            node.replace_input_with(at, tape.initializer(tensor))
        node.replace_input_with(0, inner.inputs[0])
        model.graph.remove(inner, safe=True)


def _constant_ranges(node: ir.Node) -> list[list[int]]:
    """The integers of a Slice's ranges; fewer than SLICE_RANGES where one is absent or computed."""
    constants = [ir.convenience.get_const_tensor(value) for value in node.inputs[1:] if value is not None]
    return [[int(number) for number in one.numpy().ravel()] for one in constants if one is not None]


def name_nodes_by_layer(model: ir.Model) -> None:
    """Name nodes after the module they come from, so that a profile or an error names the layer.

    Where an operator is called with the weights of a module inside, it is that module's.
    """
    seen: dict[str, int] = {}
    for node in model.graph:
        scopes = re.findall(r"'([^']*)'", node.metadata_props.get(NAME_SCOPES, ""))
        module = scopes[-2].removeprefix(STAGE_PREFIX) if len(scopes) > 1 else ""
        owners = [str(x.name).rpartition(".")[0] for x in node.inputs if x is not None and x.is_initializer()]
        module = next((owner for owner in owners if module and owner.startswith(f"{module}.")), module)
        base = f"{module}/{node.op_type}" if module else node.op_type
        seen[base] = seen.get(base, 0) + 1
        node.name = f"{base}_{seen[base]}" if seen[base] > 1 else base


def strip_metadata(model: ir.Model) -> None:
    """Drop doc strings and torch's metadata: stack traces name the files of this machine."""
    common.ClearMetadataAndDocStringPass()(model)


def attach_functions(model: ir.Model) -> None:
    """Define each custom node that the graph has as a function of standard operators."""
    used = {node.op_type for node in model.graph if node.domain == DOMAIN}
    for name in sorted(used):
        function = ir.from_proto(FUNCTIONS[name].to_function_proto())
        model.functions[function.identifier()] = function
    if used:
        model.opset_imports[DOMAIN] = DOMAIN_VERSION


def refer_to_weights(model: ir.Model, file: Path, offsets: Mapping[str, int]) -> None:
    """Replace the data of weights by a reference into the weights file beside the graph.

    Args:
        file: the weights file; graphs name it relative to their own folder.
        offsets: weight name -> where its bytes start in the file.
    """
    for name, value in model.graph.initializers.items():
        data = value.const_value
        if name in offsets and data is not None:
            value.const_value = ir.ExternalTensor(
                file.name,
                offsets[name],
                data.nbytes,
                data.dtype,
                shape=ir.Shape(data.shape.numpy()),
                name=name,
                base_dir=file.parent,
            )
