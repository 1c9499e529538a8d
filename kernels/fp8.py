"""FP8 products: operands in e4m3 with a scale for each row, and the product of two of them.

The PyTorch references here are the specification. e4m3 is a floating format: what a row's scale decides is
where its smallest values lose bits, not how exact the others are. A kernel that has a whole row in registers
writes it quantised; nothing is read a second time for that.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.calls import kernel_setting, record_call, runs_kernel
from flashvsr_trt.kernels.optional_triton import tl, triton
from flashvsr_trt.kernels.tuning import Setting

E4M3 = torch.float8_e4m3fn

LARGEST = 448.0
"""The largest number of e4m3."""

SMALLEST = 1e-20
"""A row of zeros has this as its largest value: its scale is then no division by zero."""


class Quantised(NamedTuple):
    """`values * scale` is what was quantised: values [rows, width] e4m3, scale [rows, 1] float32."""

    values: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def alike(cls, values: torch.Tensor, scale: float) -> "Quantised":
        """All rows with one scale, a constant."""
        return cls(values, torch.full((len(values), 1), scale, dtype=torch.float32, device=values.device))

    def wide(self) -> torch.Tensor:
        """[rows, width] float32."""
        return self.values.float() * self.scale


def to_e4m3(x: torch.Tensor) -> torch.Tensor:
    """Rounded to e4m3; what is beyond its range becomes the largest number, as on a GPU."""
    return x.float().clamp(-LARGEST, LARGEST).to(E4M3)


def quantise_rows_reference(x: torch.Tensor, gelu: bool = False) -> Quantised:
    """x [rows, width], or GELU (tanh form) of it, with each row's largest value at LARGEST."""
    wide = F.gelu(x.float(), approximate="tanh") if gelu else x.float()
    scale = wide.abs().amax(dim=1, keepdim=True).clamp_min(SMALLEST) / LARGEST
    return Quantised(to_e4m3(wide / scale), scale)


def fp8_product(
    x: Quantised, weight: Quantised, bias: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """x weight^T + bias, by cuBLAS or CUTLASS on a GPU, where sums are kept in the tensor cores' own width.

    Args:
        x: [tokens, in].
        weight: [out, in].
        bias: [out]; its dtype is the result's.
        out: where the result [tokens, out] is to be written.
    """
    if runs_kernel(x.values):
        record_call("fp8_product", "scaled_mm")
        operands = x.values, weight.values.t(), x.scale, weight.scale.t()
        options = {"bias": bias, "out_dtype": bias.dtype, "use_fast_accum": True}
        if out is None:
            return torch.ops.aten._scaled_mm.default(*operands, **options)
        return torch.ops.aten._scaled_mm.out(*operands, **options, out=out)
    record_call("fp8_product", "reference")
    product = F.linear(x.wide(), weight.wide(), bias.float()).to(bias.dtype)
    return product if out is None else out.copy_(product)


@triton.jit
def e4m3_rows(value, LARGEST: tl.constexpr, SMALLEST: tl.constexpr):
    """float32 [rows, width] within e4m3's range, and the rows' scales; the store rounds."""
    scale = tl.maximum(tl.max(tl.abs(value), axis=1), SMALLEST) / LARGEST
    return value / scale[:, None], scale


@triton.jit
def quantise_rows_kernel(
    x,
    values,
    scales,
    rows,
    x_stride,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    GELU: tl.constexpr,
    LARGEST: tl.constexpr,
    SMALLEST: tl.constexpr,
):
    """ROWS whole rows."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    channel = tl.arange(0, PADDED)
    inside = (row < rows)[:, None] & (channel < WIDTH)[None, :]
    place = row.to(tl.int64)[:, None]
    value = tl.load(x + place * x_stride + channel[None, :], mask=inside, other=0.0).to(tl.float32)
    if GELU:
        # tanh(u) = 2 sigmoid(2u) - 1.
        value *= tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
    quantised, scale = e4m3_rows(value, LARGEST, SMALLEST)
    target = values + place * WIDTH + channel[None, :]
    tl.store(target, quantised.to(values.dtype.element_ty), mask=inside)
    tl.store(scales + row, scale, mask=row < rows)


def quantise_rows(x: torch.Tensor, gelu: bool = False, setting: Setting | None = None) -> Quantised:
    """`quantise_rows_reference`, by the kernel where there is a GPU or a `setting` is given.

    Raises:
        ValueError: the kernel is to read rows whose values are not adjacent.
    """
    setting = setting or kernel_setting("quantise_rows", x)
    if setting is None:
        return quantise_rows_reference(x, gelu)
    rows, width = x.shape
    if x.stride(1) != 1:
        raise ValueError(f"a row's values must be adjacent: strides {x.stride()}")
    values, scale = empty_rows(x)
    padded = triton.next_power_of_2(width)
    # Launch sizes are per value, so that wide and narrow rows fill a program alike.
    size = max(1, setting.constants["VALUES"] // padded)
    quantise_rows_kernel[(triton.cdiv(rows, size),)](
        x,
        values,
        scale,
        rows,
        x.stride(0),
        WIDTH=width,
        PADDED=padded,
        ROWS=size,
        GELU=gelu,
        LARGEST=LARGEST,
        SMALLEST=SMALLEST,
        num_warps=setting.num_warps,
    )
    return Quantised(rounded(values), scale)


def kept_dtype(x: torch.Tensor) -> torch.dtype:
    """What a kernel on x's device writes e4m3 as; `rounded` makes e4m3 of it.

    Triton's interpreter rounds to e4m3 wrongly where a mantissa overflows: there float32 is written.
    """
    return E4M3 if x.is_cuda else torch.float32


def empty_rows(x: torch.Tensor) -> Quantised:
    """Memory for x [rows, width] quantised, not filled, of `kept_dtype`."""
    return Quantised(x.new_empty(x.shape, dtype=kept_dtype(x)), x.new_empty((len(x), 1), dtype=torch.float32))


def rounded(values: torch.Tensor) -> torch.Tensor:
    """What a kernel has written into memory of `kept_dtype`, as e4m3."""
    return values if values.dtype == E4M3 else to_e4m3(values)
