import pytest
import torch
import torch.nn.functional as F

from flashvsr_trt.kernels.add_norm import add_norm, add_norm_reference
from flashvsr_trt.kernels.fp8 import (
    E4M3,
    LARGEST,
    Quantised,
    fp8_product,
    quantise_rows,
    quantise_rows_reference,
    to_e4m3,
)
from flashvsr_trt.kernels.tuning import Setting

HALF_STEP = 2.0**-4
"""Of three bits of mantissa: the largest relative error of a value that is not among the smallest."""

VALUES = Setting(num_warps=4, constants={"VALUES": 512})
TOKENS = Setting(num_warps=4, constants={"TOKENS": 4})


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows_with_outliers(rows, width):
    """Rows of very different sizes, one of zeros, each with a value far above the others."""
    x = random(rows, width) * torch.logspace(-6, 4, rows)[:, None]
    x[:, width // 3] *= 300
    x[rows // 2] = 0
    return x


def launch_rows(x, gelu):
    return tuple(quantise_rows(x, gelu, VALUES))


def launch_add(*arguments):
    total, normed = add_norm(*arguments, True, TOKENS)
    return total, *normed


def assert_same_operand(got, wanted):
    """Equal but for values that lie between two of e4m3's: they may fall either way."""
    torch.testing.assert_close(got.scale, wanted.scale, rtol=1e-5, atol=0)
    difference = (got.wide() - wanted.wide()).abs()
    assert (difference <= 2.02 * HALF_STEP * wanted.wide().abs() + wanted.scale * 2.0**-8).all()
    assert (difference > 1e-4 * wanted.wide().abs()).float().mean() < 0.01


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("rows", "width"), [(37, 96), (5, 640), (1, 1)])
def test_kernel_quantises_as_the_reference(run_kernel, rows, width, gelu):
    x = rows_with_outliers(rows, width)
    got = Quantised(*run_kernel(launch_rows, x, gelu))
    wanted = quantise_rows_reference(x, gelu)
    assert got.values.dtype == E4M3
    assert_same_operand(got, wanted)


@pytest.mark.parametrize(("tokens", "width"), [(37, 96), (1, 1536)])
def test_add_norm_writes_an_operand(run_kernel, tokens, width):
    x, branch = random(2, tokens, width) * 3 + 5
    gate, weight, bias = random(3, width, seed=1)
    total, *operand = run_kernel(launch_add, x, branch, gate, weight, bias, 1e-6)
    wanted_total, wanted = add_norm_reference(x, branch, gate, weight, bias, 1e-6, True)
    torch.testing.assert_close(total, wanted_total, rtol=1e-5, atol=2e-5)
    assert_same_operand(Quantised(*operand), wanted)


def test_a_quantised_row_is_near_in_float64():
    x = rows_with_outliers(37, 640)
    operand = quantise_rows_reference(x)
    error = (operand.values.double() * operand.scale - x).abs()
    assert (error <= HALF_STEP * x.abs() + operand.scale * 2.0**-10).all()
    assert operand.values.float().abs().max() == LARGEST


def test_what_is_beyond_the_range_becomes_the_largest_number():
    wanted = torch.tensor([LARGEST, -LARGEST, LARGEST, 1.0])
    assert to_e4m3(torch.tensor([1e9, -1e9, 470.0, 1.0])).float().equal(wanted)


def test_product_is_that_of_the_operands():
    x, weight = (quantise_rows_reference(random(rows, 96, seed=rows)) for rows in (7, 48))
    bias = random(48)
    out = torch.empty(7, 48)
    fp8_product(x, weight, bias, out)
    wide = [operand.values.double() * operand.scale for operand in (x, weight)]
    torch.testing.assert_close(out.double(), F.linear(*wide, bias.double()), rtol=1e-5, atol=1e-5)
    assert fp8_product(x, weight, bias.bfloat16()).dtype == torch.bfloat16


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("tokens", "inputs", "outputs"), [(128, 1536, 8960), (256, 8960, 1536), (384, 96, 288)]
)
def test_product_on_a_gpu_is_the_references(tokens, inputs, outputs):
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs FP8 tensor cores")
    x, weight = (
        quantise_rows_reference(random(rows, inputs, seed=rows).cuda()) for rows in (tokens, outputs)
    )
    bias = random(outputs).cuda().bfloat16()
    out = torch.empty(tokens, outputs, device="cuda", dtype=torch.bfloat16)
    fp8_product(x, weight, bias, out)
    wanted = F.linear(x.wide().double(), weight.wide().double(), bias.double())
    assert ((out - wanted).norm() / wanted.norm()) < 5e-3
    assert out.equal(fp8_product(x, weight, bias))
