"""Between the two products of attention on sm_90, in a consumer's registers."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def softmax_step(scores, highest, total, scale, LOG2_LARGEST: gl.constexpr):
    """Online softmax of one block of scores, times `scale`: probabilities, and the running state.

    Probabilities and so their total are times 2**LOG2_LARGEST.
    """
    new_highest = gl.maximum(highest, gl.max(scores, axis=1) * scale)
    probability = gl.exp2(scores * scale - gl.expand_dims(new_highest - LOG2_LARGEST, 1))
    shrink = gl.exp2(highest - new_highest)
    total = total * shrink + gl.sum(probability, axis=1)
    return probability, new_highest, total, shrink


@gluon.jit
def kept_probability(probability, operand: gl.constexpr, dtype: gl.constexpr):
    """Probabilities as they wait for the second product: as its operand, or of e4m3 four in an int32.

    As e4m3 they would wait one in a register each, and take two instructions each to be put together again.
    """
    if dtype.primitive_bitwidth == 16:
        made = gl.convert_layout(probability.to(dtype), operand)
    else:
        ROWS: gl.constexpr = probability.shape[0]
        KEYS: gl.constexpr = probability.shape[1]
        # Of 16 keys a thread has 2t, 2t+1, 2t+8 and 2t+9. Values are kept so that these are 4t to 4t+3.
        four = gl.permute(gl.reshape(probability, [ROWS, KEYS // 16, 2, 4, 2]), (0, 1, 3, 2, 4))
        even, odd = gl.split(four)
        first, third = gl.split(even)
        second, fourth = gl.split(odd)
        # Not pure: it stays behind the wait for the product that still reads these registers.
        made = gl.inline_asm_elementwise(
            "{.reg .b16 low, high; cvt.rn.satfinite.e4m3x2.f32 low, $2, $1; "
            "cvt.rn.satfinite.e4m3x2.f32 high, $4, $3; mov.b32 $0, {low, high};}",
            "=r,f,f,f,f",
            [first, second, third, fourth],
            dtype=gl.int32,
            is_pure=False,
            pack=1,
        )
    return made


@gluon.jit
def as_operand(kept, operand: gl.constexpr, dtype: gl.constexpr):
    """What `kept_probability` made, as the second product's operand: no number changes its register."""
    if dtype.primitive_bitwidth == 16:
        made = kept
    else:
        even = gl.join(kept.to(gl.int8), (kept >> 16).to(gl.int8))
        odd = gl.join((kept >> 8).to(gl.int8), (kept >> 24).to(gl.int8))
        four = gl.reshape(gl.join(even, odd), [kept.shape[0], kept.shape[1] * kept.shape[2] * 4])
        made = gl.convert_layout(four.to(dtype, bitcast=True), operand)
    return made


@gluon.jit
def by_key(value):
    """A block of values [keys, channels]; in e4m3 it lies the other way round."""
    return value.permute((1, 0)) if value.dtype.primitive_bitwidth == 8 else value
