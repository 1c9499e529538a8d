"""FP8 products with GELU and FP8 convolutions: references against float64, kernels against references."""

import pytest
import torch
import torch.nn.functional as F

from flashvsr_trt.kernels import fp8_products
from flashvsr_trt.kernels.fp8 import E4M3, LARGEST, Quantised, quantise_rows_reference, to_e4m3
from flashvsr_trt.kernels.fp8_products import (
    box_of,
    convolution,
    convolution_reference,
    gelu_product,
    gelu_product_reference,
    kernel_taking,
)
from flashvsr_trt.kernels.tuning import ARCHITECTURES
from flashvsr_trt.model.fp8_linear import Fp8LinearGelu

HALF_STEP = 2.0**-4

OPERATORS = ("fp8_gelu_product", "fp8_convolution")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def product(rows, depth, columns):
    x, weight = (quantise_rows_reference(random(count, depth, seed=count)) for count in (rows, columns))
    return x, weight, random(columns)


def pixels(frames, channels, height, width, outputs):
    x = to_e4m3(random(frames, channels, height + 2, width + 2))
    weight = quantise_rows_reference(random(outputs, 9 * channels, seed=1))
    return x.contiguous(memory_format=torch.channels_last), weight


def exact_gelu(x, weight, bias):
    wide = [operand.values.double() * operand.scale for operand in (x, weight)]
    return F.gelu(F.linear(*wide, bias.double()), approximate="tanh")


def exact_convolution(x, weight):
    taps = (weight.values.double() * weight.scale).unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
    return F.conv2d(x.double(), taps)


def test_gelu_of_a_product_is_float64s_rounded_once():
    x, weight, bias = product(37, 96, 48)
    got, wanted = gelu_product(x, weight, bias, 0.25), exact_gelu(x, weight, bias)
    assert got.values.dtype == E4M3
    assert got.scale.eq(0.25).all()
    error = (got.wide() - wanted).abs()
    assert (error <= HALF_STEP * wanted.abs() + 0.25 * 2.0**-10 + 1e-5).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_convolution_is_float64s(dtype):
    x, weight = pixels(2, 8, 5, 7, 12)
    got = convolution(x, weight, dtype)
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got, exact_convolution(x, weight).to(dtype), rtol=1e-2, atol=1e-4)


def test_nothing_that_a_layer_makes_is_beyond_its_scale():
    linear, scale, shift = torch.nn.Linear(96, 384), 1 + random(96), random(96, seed=1)
    layer = Fp8LinearGelu(linear, scale, shift)
    # A row along the weight that reaches furthest has the largest product that its length allows.
    along = F.layer_norm(linear.weight.detach() * scale, (96,))
    x = quantise_rows_reference(along * scale + shift)
    got = layer.gelu(x).values.float()
    assert LARGEST / 3 < got.abs().max() < LARGEST


@pytest.mark.parametrize(("height", "width"), [(88, 160), (48, 80), (8, 8), (135, 240), (21, 37), (1, 500)])
@pytest.mark.parametrize("size", [64, 128])
def test_boxes_cover_a_frame_with_little_beside(size, height, width):
    box = box_of(size, height, width)
    assert box[0] * box[1] == size
    assert size * -(-height // box[0]) * -(-width // box[1]) < (height + 8) * (width + 16) + 8 * size


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_only_hopper_has_the_kernel(architecture):
    for name in OPERATORS:
        assert (kernel_taking(name, architecture, 1024, 1536) is not None) == (architecture == "sm_90")
    assert kernel_taking("fp8_gelu_product", architecture, 384, 96) is None


@pytest.mark.parametrize("architecture", ["sm_89", "sm_90"])
def test_a_convolution_without_a_kernel_is_refused_on_a_gpu(monkeypatch, architecture):
    monkeypatch.setattr(fp8_products, "runs_kernel", lambda tensor: True)
    monkeypatch.setattr(fp8_products, "architecture_of", lambda device: architecture)
    with pytest.raises(ValueError, match=f"{architecture} has no FP8 convolution of 8 channels to 12"):
        convolution(*pixels(2, 8, 5, 7, 12), torch.bfloat16)


def hopper():
    if torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs sm_90")


@pytest.mark.gpu
@pytest.mark.parametrize(("rows", "depth", "columns"), [(128, 128, 256), (700, 384, 512), (20000, 256, 1024)])
def test_gelu_product_on_a_gpu_is_the_references(rows, depth, columns):
    hopper()
    x, weight, bias = product(rows, depth, columns)
    x, weight = (Quantised(*(part.cuda() for part in operand)) for operand in (x, weight))
    bias = bias.cuda().bfloat16()
    scale = 4 * float(exact_gelu(x, weight, bias).max()) / LARGEST
    got = gelu_product(x, weight, bias, scale).wide()
    wanted = gelu_product_reference(x, weight, bias, scale).wide()
    assert (got - wanted).norm() / wanted.norm() < 0.02
    assert (got - exact_gelu(x, weight, bias)).norm() / wanted.norm() < 0.03


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("frames", "channels", "height", "width", "outputs"),
    [(1, 128, 8, 16, 128), (2, 256, 21, 37, 256), (4, 384, 48, 80, 512)],
)
def test_convolution_on_a_gpu_is_the_references(frames, channels, height, width, outputs):
    hopper()
    x, weight = pixels(frames, channels, height, width, outputs)
    x, weight = x.cuda(), Quantised(*(part.cuda() for part in weight))
    got = convolution(x, weight, torch.bfloat16)
    wanted = convolution_reference(x, weight, torch.float32)
    assert got.shape == wanted.shape
    assert (got - wanted).norm() / wanted.norm() < 5e-3
