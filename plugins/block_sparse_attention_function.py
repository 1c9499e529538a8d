"""`flashvsr::block_sparse_attention` as a function of standard ONNX operators, one query window at a time.

It computes all blocks and masks those that are not listed: for parity, not for speed.
"""

from onnx import TensorProto
from onnxscript import graph, script
from onnxscript import opset22 as op

from flashvsr_trt.plugins.onnx_schema import FLASHVSR_OPSET

LOWEST = -3.4028234663852886e38
"""The lowest float32: unlike -inf it keeps a row without any visible key finite until it is zeroed."""


@script(FLASHVSR_OPSET, default_opset=op)
def block_sparse_attention(q, k, v, ring_k, ring_v, index, count):
    """See `plugins.sparse_attention.BLOCK_SPARSE_ATTENTION`."""
    last = op.Constant(value_ints=[-1])
    head_shape = op.Shape(q, start=1)
    rows = op.Shape(count, start=1)
    key_windows = op.Shape(index, start=2)

    all_tokens = op.Concat(last, head_shape, axis=0)
    all_keys = op.Concat(op.Reshape(ring_k, all_tokens), k, axis=0)
    all_values = op.Concat(op.Reshape(ring_v, all_tokens), v, axis=0)
    keys = op.Transpose(op.Cast(all_keys, to=TensorProto.FLOAT), perm=[1, 2, 0])
    values = op.Transpose(op.Cast(all_values, to=TensorProto.FLOAT), perm=[1, 0, 2])
    root = op.Sqrt(op.Cast(op.Shape(q, start=2), to=TensorProto.FLOAT))
    scaled = op.Cast(q, to=TensorProto.FLOAT) / root
    queries = op.Reshape(scaled, op.Concat(rows, last, head_shape, axis=0))

    # Entries past the count go to one column past the end, which is cut off.
    past_the_end = op.Cast(key_windows, to=TensorProto.INT32)
    entry = op.Range(op.Constant(value_int=0), op.Squeeze(key_windows), op.Constant(value_int=1))
    listed = op.Cast(entry, to=TensorProto.INT32) < op.Unsqueeze(count, last)
    target = op.Where(listed, index, past_the_end)
    ones = op.Expand(op.CastLike(op.Constant(value_int=1), index), op.Shape(target))
    blank = op.Expand(
        op.CastLike(op.Constant(value_int=0), index),
        op.Concat(op.Shape(index, end=2), key_windows + 1, axis=0),
    )
    scattered = op.ScatterElements(blank, target, ones, axis=-1)
    mask = op.Slice(scattered, op.Constant(value_ints=[0]), key_windows, last)
    visible = op.Transpose(op.Cast(mask, to=TensorProto.BOOL), perm=[1, 0, 2])
    lowest = op.Constant(value_float=LOWEST)
    zero = op.Constant(value_float=0.0)

    @graph()
    def attend(query, seen):
        scores = op.MatMul(op.Transpose(query, perm=[1, 0, 2]), keys)
        by_window = op.Reshape(
            scores,
            op.Concat(op.Shape(scores, end=2), op.Shape(seen, start=1), op.Constant(value_ints=[-1]), axis=0),
        )
        shown = op.Where(op.Unsqueeze(seen, op.Constant(value_ints=[1, 3])), by_window, lowest)
        attended = op.MatMul(op.Softmax(op.Reshape(shown, op.Shape(scores)), axis=-1), values)
        seen_count = op.ReduceSum(op.Cast(seen, to=TensorProto.INT32), op.Constant(value_ints=[-1]))
        any_seen = op.Cast(op.Unsqueeze(seen_count, op.Constant(value_ints=[2])), to=TensorProto.BOOL)
        return op.Transpose(op.Where(any_seen, attended, zero), perm=[1, 0, 2])

    attended_rows = op.Scan(queries, visible, body=attend, num_scan_inputs=2)
    out = op.CastLike(op.Reshape(attended_rows, op.Shape(q)), q)
    return out
