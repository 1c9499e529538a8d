"""A stage to ONNX: torch.export, then torch.onnx with our own translation of a few operators."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from onnxscript import opset22
from torch import nn

from flashvsr_trt.config.signatures import COMPUTE, StageSignature, TensorSpec
from flashvsr_trt.errors import BundleError
from flashvsr_trt.plugins.onnx_schema import STANDARD_OPSET_VERSION, onnxscript_op
from flashvsr_trt.plugins.sparse_attention import BLOCK_SPARSE_ATTENTION, SELECT_BLOCKS

op: Any = opset22  # Traced, its calls make nodes; its types are of arrays.


def trace_stage(module: nn.Module, signature: StageSignature, dtype: torch.dtype) -> torch.onnx.ONNXProgram:
    """The program of a module of `stage_graphs`, names as in its signature.

    Tensors stay where they are: the program's initializers are the module's own parameters.
    """
    arguments = tuple(_example(spec, dtype) for spec in signature.graph_inputs)
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            arguments,
            dynamo=True,
            opset_version=STANDARD_OPSET_VERSION,
            input_names=[spec.name for spec in signature.graph_inputs],
            output_names=[spec.name for spec in signature.graph_outputs],
            custom_translation_table=TRANSLATIONS,
            optimize=False,
            verbose=False,
        )
    if program is None:
        raise BundleError(f"torch.onnx made no program of {signature.name}")
    return program


def divide_integers(x, y, rounding_mode: str):
    """Integer division stays one: torch's translation goes through float32, which 30-bit sums do not fit."""
    if rounding_mode != "trunc":
        raise ValueError(f"a division rounded by '{rounding_mode}' has no translation; use 'trunc'")
    return op.Div(x, op.CastLike(y, x))


def attend(
    query, key, value, attn_mask=None, dropout_p: float = 0.0, is_causal: bool = False, scale=None, **options
):
    """softmax(q k^T / sqrt(head_dim) + mask) v, over [1, heads, tokens, head_dim], as engines fuse it.

    Every query must see a key: torch's translation guards against rows that see none with IsNaN, which
    stands between softmax and product and keeps the score matrix in memory.
    """
    if dropout_p or is_causal or scale is not None or any(options.values()):
        raise ValueError("attention with dropout, causality, a scale or grouped heads has no translation")
    root = op.CastLike(op.Constant(value_float=query.shape[-1] ** -0.5), query)
    scores = op.MatMul(op.Mul(query, root), op.Transpose(key, perm=[0, 1, 3, 2]))
    if attn_mask is not None:
        shown, hidden = (op.CastLike(op.Constant(value_float=x), query) for x in (0.0, float("-inf")))
        scores = op.Add(scores, op.Where(attn_mask, shown, hidden))
    return op.MatMul(op.Softmax(scores, axis=-1), value)


TRANSLATIONS = {
    torch.ops.flashvsr.select_blocks.default: onnxscript_op(SELECT_BLOCKS),
    torch.ops.flashvsr.block_sparse_attention.default: onnxscript_op(BLOCK_SPARSE_ATTENTION),
    torch.ops.aten.div.Tensor_mode: divide_integers,
    torch.ops.aten.scaled_dot_product_attention.default: attend,
}


def _example(spec: TensorSpec, dtype: torch.dtype) -> torch.Tensor:
    """Memory that is never touched: only shapes and dtypes are read, and a ring can be gigabytes."""
    return torch.empty(spec.shape, dtype=dtype if spec.dtype == COMPUTE else getattr(torch, spec.dtype))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Drop torch's progress lines, and warnings about its own internals and absent torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
