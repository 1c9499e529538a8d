"""Windows in e4m3 with scales: the kernels give the references' bits."""

import pytest
import torch

from flashvsr_trt.kernels.fp8 import E4M3
from flashvsr_trt.kernels.scaled_windows import (
    BLOCK,
    LEAST_EXPONENT,
    quantise_windows,
    quantise_windows_reference,
    widen_windows,
    widen_windows_reference,
)
from flashvsr_trt.kernels.tuning import Setting

SETTING = Setting(num_warps=8)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def quantise(x):
    kept = torch.zeros_like(x, dtype=E4M3)
    scales = x.new_zeros(len(x) // BLOCK, x.shape[1], dtype=torch.float32)
    quantise_windows(x, kept, scales, SETTING)
    return kept.view(torch.uint8), scales


def widen(bits, scales, out):
    widen_windows(bits.view(E4M3), scales, out, SETTING)
    return out


def hard_windows(dtype: torch.dtype) -> torch.Tensor:
    """Of many sizes; ties between two numbers of e4m3, subnormal ones, zeros of both signs, full range."""
    x = torch.randn(6 * BLOCK, 2, 32, generator=torch.Generator().manual_seed(0))
    steps = torch.arange(BLOCK * 32).view(BLOCK, 32)
    x[:BLOCK, 0] *= 2.0**-9
    x[BLOCK : 2 * BLOCK, 0] = (steps - 2048) * 2.0**-12
    x[BLOCK : 2 * BLOCK, 1] = steps * 0.125 - 200
    x[2 * BLOCK : 3 * BLOCK] = 0.0
    x[2 * BLOCK : 3 * BLOCK, 1, 0] = -0.0
    x[3 * BLOCK : 4 * BLOCK, 0, 0] = torch.tensor([448.0, 448.5, 56.0, 57000.0]).repeat(BLOCK // 4)
    x[4 * BLOCK :] *= 2.0**-16
    x[5 * BLOCK :, 1, 5] = 7.0
    return x.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_windows_are_quantised_as_the_reference_quantises_them(run_kernel, dtype):
    x = hard_windows(dtype)
    kept, scales = torch.zeros(x.shape, dtype=E4M3), torch.zeros(6, 2)
    quantise_windows_reference(x, kept, scales)
    bits, made = run_kernel(quantise, x)
    assert torch.equal(made, scales)
    assert scales.min() == 2.0**LEAST_EXPONENT
    assert torch.equal(bits.view(E4M3).float(), kept.float())


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_is_widened_exactly(run_kernel, dtype):
    bits = torch.arange(256, dtype=torch.uint8).repeat(BLOCK * 2 // 8).view(BLOCK, 2, 32)
    # The two NaN.
    bits[bits % 128 == 127] = 0
    scales, wanted = torch.tensor([[2.0**-14, 4.0]]), torch.empty(bits.shape, dtype=dtype)
    widen_windows_reference(bits.view(E4M3), scales, wanted)
    assert wanted.unique().numel() == 253
    assert torch.equal(run_kernel(widen, bits, scales, torch.empty_like(wanted)), wanted)


def test_what_is_no_number_is_not_lost(run_kernel):
    x = torch.zeros(BLOCK, 1, 32)
    x[5, 0, 5] = torch.nan
    _, scales = run_kernel(quantise, x)
    assert scales.isinf().all()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(100, 2, 32), "must be whole windows of 128 tokens"),
        (torch.zeros(BLOCK, 32, 2).transpose(1, 2), "must be contiguous"),
    ],
)
def test_windows_that_the_kernels_cannot_read_are_refused(x, message):
    with pytest.raises(ValueError, match=message):
        quantise(x)
