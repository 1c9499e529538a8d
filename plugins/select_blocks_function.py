"""`flashvsr::select_blocks` as a function of standard ONNX operators: what runs where the node is unknown.

The (m+1)-th largest entry is found without sorting: it is the largest float x for which at least m+1 entries
are >= x, and a float is built by trying its exponent in factors of two, then its 23 mantissa bits. Every
candidate is an exact float, so the result is the one a sort gives.
"""

from onnx import TensorProto
from onnxscript import opset22 as op
from onnxscript import script

from flashvsr_trt.plugins.onnx_schema import FLASHVSR_OPSET

SMALLEST_NORMAL = 2.0**-126

# Tried in turn, they multiply SMALLEST_NORMAL to any power of two a float32 can be.
EXPONENT_FACTORS = [2.0**64, 2.0**64, 2.0**64, 2.0**32, 2.0**16, 2.0**8, 2.0**4, 2.0**2, 2.0**1]
EXPONENT_STEPS = len(EXPONENT_FACTORS)
MANTISSA_BITS = 23


@script(FLASHVSR_OPSET, default_opset=op)
def select_blocks(probability, slot_valid, top_k: int):
    """See `plugins.sparse_attention.SELECT_BLOCKS`."""
    last = op.Constant(value_ints=[-1])
    units = op.Shape(probability, start=1, end=2)
    windows = op.Shape(probability, start=2, end=3)
    key_windows = op.Shape(probability, start=3)
    valid_slots = op.ReduceSum(op.Cast(slot_valid, to=TensorProto.INT64))
    entries = windows * windows * (valid_slots + units)
    rank = op.Cast(op.Min(entries, op.Constant(value_int=top_k) + 1), to=TensorProto.INT32)

    ranked = op.Reshape(probability, op.Constant(value_ints=[0, 0, -1]))
    power = op.Expand(
        op.Constant(value_float=SMALLEST_NORMAL),
        op.Concat(op.Shape(probability, end=2), op.Constant(value_ints=[1]), axis=0),
    )
    reached = op.ReduceSum(op.Cast(ranked >= power, to=TensorProto.INT32), last)
    normal = reached >= rank
    factors = op.Constant(value_floats=EXPONENT_FACTORS)
    for step in range(EXPONENT_STEPS):
        candidate = power * op.Gather(factors, step)
        reached = op.ReduceSum(op.Cast(ranked >= candidate, to=TensorProto.INT32), last)
        power = op.Where(reached >= rank, candidate, power)
    # Below the smallest normal float the mantissa alone counts, in steps of the same size.
    threshold = op.Where(normal, power, op.Constant(value_float=0.0))
    for _ in range(MANTISSA_BITS):
        power = power * 0.5
        candidate = threshold + power
        reached = op.ReduceSum(op.Cast(ranked >= candidate, to=TensorProto.INT32), last)
        threshold = op.Where(reached >= rank, candidate, threshold)

    above = probability > op.Unsqueeze(threshold, last)
    kept = op.Reshape(above, op.Concat(op.Constant(value_ints=[0, -1]), key_windows, axis=0))
    kept_int = op.Cast(kept, to=TensorProto.INT32)
    count = op.ReduceSum(kept_int, last, keepdims=0)
    # Kept columns are written to their rank among the kept; all others to one column past the end.
    past_the_end = op.Cast(key_windows, to=TensorProto.INT32)
    rank_in_row = op.CumSum(kept_int, op.Constant(value_int=-1), exclusive=1)
    target = op.Where(kept, rank_in_row, past_the_end)
    column = op.Range(op.Constant(value_int=0), op.Squeeze(key_windows), op.Constant(value_int=1))
    columns = op.Expand(op.Cast(column, to=TensorProto.INT32), op.Shape(target))
    blank = op.Expand(
        op.CastLike(op.Constant(value_int=0), past_the_end),
        op.Concat(op.Shape(target, end=2), key_windows + 1, axis=0),
    )
    scattered = op.ScatterElements(blank, target, columns, axis=-1)
    index = op.Slice(scattered, op.Constant(value_ints=[0]), key_windows, last)
    return index, count
