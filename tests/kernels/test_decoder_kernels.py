"""What projector, decoder and upscaler run beside their convolutions, against the twins."""

import pytest
import torch

from flashvsr_trt.geometry import Geometry
from flashvsr_trt.kernels.calls import reference_kernels
from flashvsr_trt.kernels.conv_relu import conv_relu, conv_relu_reference
from flashvsr_trt.kernels.conv_to_rgb import conv_to_rgb_reference, tap_columns
from flashvsr_trt.kernels.split_frames import split_frames_reference
from flashvsr_trt.kernels.stack_frames import stack_frames_reference
from flashvsr_trt.kernels.tuning import Setting
from flashvsr_trt.model.upsample import FIXED_POINT_BITS, bicubic_table, fit_to_target, upsample

VALUES = Setting(num_warps=4, constants={"VALUES": 256})
CELLS = Setting(num_warps=4, constants={"PIXELS": 16, "CHANNELS": 32})
PIXELS = Setting(num_warps=4, constants={"PIXELS": 4096})


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def launch_split(*arguments):
    from flashvsr_trt.kernels.split_frames_triton import launch_split_frames

    return launch_split_frames(*arguments, VALUES)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(("channels", "frames"), [(16, 2), (4, 3), (512, 2)])
def test_split_frames_moves_what_the_twin_moves(run_kernel, channels, frames, relu):
    grown = random(2, channels * frames, 5, 7).contiguous(memory_format=torch.channels_last)
    got = run_kernel(launch_split, grown, frames, relu)
    assert torch.equal(got, split_frames_reference(grown, frames, relu))


def launch_stack(*arguments):
    from flashvsr_trt.kernels.stack_frames_triton import launch_stack_frames

    return launch_stack_frames(*arguments, CELLS)


@pytest.mark.parametrize(
    ("frames", "height", "width", "channels"), [(2, 1, 1, 3), (8, 5, 7, 24), (4, 3, 9, 40)]
)
def test_stack_frames_reads_what_the_twin_reads(run_kernel, frames, height, width, channels):
    tail, x = random(2, height, width, channels), random(frames, height, width, channels, seed=1)
    assert torch.equal(run_kernel(launch_stack, tail, x), stack_frames_reference(tail, x))


def launch_rgb(x, weight, bias):
    from flashvsr_trt.kernels.conv_to_rgb_triton import launch_conv_to_rgb

    return launch_conv_to_rgb(x, tap_columns(weight), bias, PIXELS)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (5, 70), (70, 130)])
def test_conv_to_rgb_sums_the_twins_products(run_kernel, height, width):
    x = random(2, 24, height, width).contiguous(memory_format=torch.channels_last)
    weight, bias = random(3, 24, 3, 3, seed=1), random(3, seed=2)
    got = run_kernel(launch_rgb, x, weight, bias)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, conv_to_rgb_reference(x, weight, bias), rtol=1e-5, atol=1e-4)


def launch_upsample(frames, rows, columns, target, corner):
    from flashvsr_trt.kernels.upsample_triton import launch_upsample_frames

    return launch_upsample_frames(frames, (rows, columns), target, corner, FIXED_POINT_BITS, PIXELS)


@pytest.mark.parametrize("kind", ["noise", "edges"])
@pytest.mark.parametrize(
    ("height", "width", "scale", "fit"),
    [(64, 70, 2, "pad"), (33, 34, 4, "pad"), (70, 97, 2, "crop"), (35, 41, 4, "crop"), (3, 2, 2, "pad")],
)
def test_upsampled_frames_are_the_twins_bit_for_bit(run_kernel, height, width, scale, fit, kind):
    geometry = Geometry(height, width, scale, fit)
    generator = torch.Generator().manual_seed(0)
    levels = 256 if kind == "noise" else 2
    frames = torch.randint(0, levels, (2, height, width, 3), generator=generator, dtype=torch.uint8)
    frames = frames * (255 // (levels - 1))
    tables = (bicubic_table(height, scale), bicubic_table(width, scale))
    got = run_kernel(launch_upsample, frames, *tables, geometry.target, geometry.crop_corner)
    assert torch.equal(got, fit_to_target(upsample(frames, scale), geometry))


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_a_fused_convolution_equals_its_parts(residual, biased):
    x = random(2, 12, 9, 7).contiguous(memory_format=torch.channels_last)
    weight, bias = random(8, 12, 3, 3, seed=1), random(8, seed=2) if biased else None
    added = random(2, 8, 9, 7, seed=3).contiguous(memory_format=torch.channels_last) if residual else None
    expected = conv_relu_reference(x, weight, bias, added)
    torch.testing.assert_close(conv_relu(x, weight, bias, added), expected, rtol=1e-4, atol=1e-4)
    with reference_kernels():
        assert torch.equal(conv_relu(x, weight, bias, added), expected)


@pytest.mark.parametrize(
    ("grown", "message"),
    [
        (torch.zeros(1, 8, 3, 3), "channels-last"),
        (torch.zeros(1, 6, 3, 3).contiguous(memory_format=torch.channels_last), "powers of two"),
    ],
    ids=["layout", "channels"],
)
def test_what_split_frames_cannot_read_is_refused(run_kernel, grown, message):
    with pytest.raises(ValueError, match=message):
        run_kernel(launch_split, grown, 2, False)
