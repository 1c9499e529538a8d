"""A stage to ONNX: torch.export, then torch.onnx with our own translation of a few operators."""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator

import torch
from onnxscript import opset22 as op
from torch import nn

from flashvsr_trt.plugins.function_opset import STANDARD_OPSET_VERSION
from flashvsr_trt.plugins.onnx_schema import onnxscript_op
from flashvsr_trt.plugins.sparse_attention import BLOCK_SPARSE_ATTENTION, SELECT_BLOCKS
from flashvsr_trt.signatures import COMPUTE, StageSignature, TensorSpec


def trace_stage(module: nn.Module, signature: StageSignature, dtype: torch.dtype) -> torch.onnx.ONNXProgram:
    """The program of a module of `stage_graphs`, names as in its signature.

    Tensors stay where they are: the program's initializers are the module's own parameters.
    """
    arguments = tuple(_example(spec, dtype) for spec in signature.graph_inputs)
    with _quiet():
        return torch.onnx.export(
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


def divide_integers(x, y, rounding_mode: str):
    """Integer division stays one: torch's translation goes through float32, which 30-bit sums do not fit."""
    if rounding_mode != "trunc":
        raise ValueError(f"a division rounded by '{rounding_mode}' has no translation; use 'trunc'")
    return op.Div(x, op.CastLike(y, x))


TRANSLATIONS = {
    torch.ops.flashvsr.select_blocks.default: onnxscript_op(SELECT_BLOCKS),
    torch.ops.flashvsr.block_sparse_attention.default: onnxscript_op(BLOCK_SPARSE_ATTENTION),
    torch.ops.aten.div.Tensor_mode: divide_integers,
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
