"""What projector, decoder and upscaler run beside their convolutions, against the references."""

import pytest
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.pictures import FIXED_POINT_BITS
from flashvsr_trt.config.presets import TOKEN_STRIDE
from flashvsr_trt.kernels.calls import counted_calls, reference_kernels
from flashvsr_trt.kernels.conv_relu import conv_relu, conv_relu_reference
from flashvsr_trt.kernels.conv_to_rgb import ConvToRGB, conv_to_rgb_reference
from flashvsr_trt.kernels.fp8 import to_e4m3
from flashvsr_trt.kernels.norm_silu import convolve_by_frame, norm_silu, norm_silu_reference
from flashvsr_trt.kernels.split_frames import split_frames, split_frames_reference
from flashvsr_trt.kernels.stack_frames import stack_frames, stack_frames_reference
from flashvsr_trt.kernels.tuning import Setting
from flashvsr_trt.model.decoder import condition_cells
from flashvsr_trt.model.fused_decoder import decoder_input, one_frame_earlier
from flashvsr_trt.model.fused_projector import unshuffle
from flashvsr_trt.model.upsample import bicubic_table, fit_to_target, upsample

VALUES = Setting(num_warps=4, constants={"VALUES": 256})
CELLS = Setting(num_warps=4, constants={"PIXELS": 16, "CHANNELS": 32})
PIXELS = Setting(num_warps=4, constants={"PIXELS": 4096})
COLUMNS = Setting(num_warps=4, constants={"PIXELS": 128})
needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def channels_innermost(*shape, seed=0):
    return random(*shape, seed=seed).contiguous(memory_format=torch.channels_last)


def launch_split(*arguments):
    return split_frames(*arguments, VALUES)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("channels", "frames"), [(16, 2), (4, 3), (512, 2), (3, 2), (12, 2), (24, 2), (56, 3), (300, 2)]
)
def test_split_frames_moves_what_the_reference_moves(run_kernel, channels, frames, relu):
    grown = random(2, channels * frames, 5, 7).contiguous(memory_format=torch.channels_last)
    got = run_kernel(launch_split, grown, frames, relu)
    assert torch.equal(got, split_frames_reference(grown, frames, relu))


def launch_stack(*arguments):
    return stack_frames(*arguments, setting=CELLS)


@pytest.mark.parametrize(
    ("frames", "height", "width", "channels"), [(2, 1, 1, 3), (8, 5, 7, 24), (4, 3, 9, 40), (6, 1, 4, 33)]
)
@pytest.mark.parametrize("starts", [True, False])
def test_stack_frames_reads_what_the_reference_reads(run_kernel, frames, height, width, channels, starts):
    tail = channels_innermost(2, channels, height, width)
    x = channels_innermost(frames, channels, height, width, seed=1)
    first = torch.tensor(starts)
    got = run_kernel(launch_stack, tail, x, first)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, stack_frames_reference(tail, x, first))


def test_stack_frames_writes_what_a_convolution_in_fp8_reads(run_kernel):
    tail, x = channels_innermost(2, 24, 5, 7), channels_innermost(4, 24, 5, 7, seed=1)
    got = run_kernel(launch_stack, tail, x, torch.tensor(False), 1 / 64)
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert got.float().equal(stack_frames_reference(tail, x, torch.tensor(False), 1 / 64).float())
    assert got.float().equal(to_e4m3(64 * stack_frames_reference(tail, x, torch.tensor(False))).float())


def test_a_clip_that_starts_sees_its_first_frame_before_it():
    tail, x = random(2, 4, 3, 5), random(4, 4, 3, 5, seed=1)
    got = stack_frames_reference(tail, x, torch.tensor(True))
    assert torch.equal(got, stack_frames_reference(x[:1].repeat(2, 1, 1, 1), x, torch.tensor(False)))
    assert not torch.equal(got, stack_frames_reference(tail, x, torch.tensor(False)))


def test_a_tail_of_another_layout_is_read_as_what_it_holds():
    tail, x, first = random(2, 4, 3, 5), channels_innermost(2, 4, 3, 5, seed=1), torch.tensor(False)
    laid = tail.contiguous(memory_format=torch.channels_last)
    assert torch.equal(stack_frames(tail, x, first), stack_frames_reference(laid, x, first))


def test_a_layout_that_stack_frames_cannot_read_is_refused(run_kernel):
    tail, x, first = channels_innermost(2, 8, 3, 5), random(4, 8, 3, 5), torch.tensor(False)
    with pytest.raises(ValueError, match="channels-last"):
        run_kernel(launch_stack, tail, x, first)


def launch_norm(x, bias, gamma):
    # The kernel writes into x, whose memory the interpreter's process shares.
    return norm_silu(x.clone(), bias, gamma, VALUES)


def hard_pixels(x, bias, kind):
    if kind == "zeros":
        return torch.zeros_like(x), torch.zeros_like(bias)
    if kind == "the bias undone":
        x[:1] = -bias.view(-1, 1, 1)
        return x, bias
    if kind == "tiny":
        return x * 1e-20, bias * 1e-20
    return x * 1e15, bias * 1e10


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((2, 5, 7), 6), ((1, 1, 1), 1), ((2, 3, 9), 24), ((4, 2, 2), 48), ((1, 2, 3), 2048), ((1, 1, 2), 3072)],
)
def test_norm_silu_gives_what_the_reference_gives(run_kernel, shape, channels):
    count, *size = shape
    x, (bias, gamma) = channels_innermost(count, channels, *size) * 3, random(2, channels, seed=1)
    got = run_kernel(launch_norm, x, bias, gamma)
    torch.testing.assert_close(got, norm_silu_reference(x, bias, gamma), rtol=1e-5, atol=1e-5)
    added = norm_silu_reference(x + bias.view(-1, 1, 1), None, gamma)
    torch.testing.assert_close(got, added, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["zeros", "the bias undone", "tiny", "huge"])
@pytest.mark.parametrize("channels", [6, 24, 2048])
def test_norm_silu_of_hard_pixels_is_the_reference_s(run_kernel, channels, kind):
    bias, gamma = random(2, channels, seed=1)
    x, bias = hard_pixels(channels_innermost(2, channels, 2, 3), bias, kind)
    expected = norm_silu_reference(x, bias, gamma)
    assert torch.isfinite(expected).all()
    torch.testing.assert_close(run_kernel(launch_norm, x, bias, gamma), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norm_silu_rounds_once(run_kernel, dtype):
    x, (bias, gamma) = channels_innermost(2, 48, 4, 4).to(dtype), random(2, 48, seed=1).to(dtype)
    got = run_kernel(launch_norm, x, bias, gamma)
    assert got.dtype == dtype
    expected = norm_silu_reference(x.float(), bias.float(), gamma.float())
    torch.testing.assert_close(got.float(), expected, rtol=torch.finfo(dtype).eps, atol=1e-6)


def test_a_layout_that_norm_silu_cannot_read_is_refused(run_kernel):
    with pytest.raises(ValueError, match="channels innermost"):
        run_kernel(launch_norm, torch.zeros(1, 8, 3, 3), *torch.zeros(2, 8))


@pytest.fixture
def to_rgb():
    """Makes the decoder's last layer with random weights."""

    def make(channels):
        conv = torch.nn.Conv2d(channels, 3, 3, padding=1).requires_grad_(False)
        conv.weight.copy_(random(3, channels, 3, 3, seed=1))
        conv.bias.copy_(random(3, seed=2))
        return ConvToRGB(conv.weight, conv.bias)

    return make


@needs_onednn
@pytest.mark.parametrize(
    ("frames", "channels", "height", "width"),
    [(1, 16, 1, 4), (8, 16, 7, 12), (3, 16, 64, 128), (2, 1, 5, 8), (4, 24, 9, 20), (1, 64, 2, 4)],
)
def test_four_pixels_at_once_are_the_references_pixels(to_rgb, frames, channels, height, width):
    layer = to_rgb(channels)
    x = random(frames, channels, height, width).contiguous(memory_format=torch.channels_last)
    with counted_calls() as calls:
        got = layer(x)
    assert calls == {"conv_to_rgb/onednn": 1}
    assert got.is_contiguous(memory_format=torch.channels_last)
    expected = conv_to_rgb_reference(x, layer.weight, layer.bias)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-4)


@needs_onednn
def test_a_width_that_four_does_not_divide_is_refused(to_rgb):
    with pytest.raises(ValueError, match="width of 6 is not a multiple of 4"):
        to_rgb(16)(torch.zeros(1, 16, 5, 6))


@pytest.mark.parametrize("case", ["references", "bfloat16"])
def test_what_onednn_does_not_take_runs_the_reference(to_rgb, case):
    layer, x = to_rgb(16), random(2, 16, 5, 6)
    with counted_calls() as calls:
        if case == "references":
            with reference_kernels():
                got = layer(x)
        else:
            layer, x = layer.bfloat16(), x.bfloat16()
            got = layer(x)
    assert calls == {"conv_to_rgb/reference": 1}
    assert got.dtype == torch.float32
    assert torch.equal(got, conv_to_rgb_reference(x, layer.weight, layer.bias))


def launch_upsample(frames, rows, columns, target, corner, dtype):
    from flashvsr_trt.kernels.upsample_triton import launch_upsample_frames

    out = torch.full((len(frames), 3, *target), torch.nan, device=frames.device)
    pixels = launch_upsample_frames(
        frames, (rows, columns), corner, FIXED_POINT_BITS, TOKEN_STRIDE, out, dtype, COLUMNS
    )
    return out, pixels.permute(0, 3, 1, 2)


# Triton's interpreter truncates to bfloat16; the GPU's tests see how the kernel rounds to it. Each program is
# interpreted: colours have programs of their own, so one frame has noise in one and edges in another.
@pytest.mark.parametrize(
    ("count", "height", "width", "scale", "fit"),
    [
        (1, 64, 70, 2, "pad"),
        (1, 33, 30, 4, "pad"),
        (1, 70, 97, 2, "crop"),
        (1, 35, 41, 4, "crop"),
        (1, 67, 64, 2, "crop"),
        (1, 37, 33, 4, "crop"),
        (2, 3, 2, 2, "pad"),
        (1, 1, 1, 4, "pad"),
    ],
)
def test_upsampled_frames_are_the_references_bit_for_bit(run_kernel, count, height, width, scale, fit):
    geometry = Geometry(height, width, scale, fit)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)
    frames[..., 1] = frames[..., 1] % 2 * 255
    tables = (bicubic_table(height, scale), bicubic_table(width, scale))
    size = (geometry.target, geometry.crop_corner)
    got, pixels = run_kernel(launch_upsample, frames, *tables, *size, torch.float16)
    expected = fit_to_target(upsample(frames, scale), geometry.crop_corner, geometry.target)
    assert torch.equal(got, expected)
    assert pixels.dtype == torch.float16
    assert torch.equal(pixels, unshuffle(expected.half()))


def test_frames_with_colours_outermost_in_memory_are_refused(run_kernel):
    frames, table = torch.zeros(1, 3, 64, 64, dtype=torch.uint8).permute(0, 2, 3, 1), bicubic_table(64, 2)
    with pytest.raises(ValueError, match="must be contiguous"):
        run_kernel(launch_upsample, frames, table, table, (128, 128), (0, 0), torch.float16)


def test_every_level_of_a_byte_is_the_references(run_kernel):
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1)
    frames = levels.repeat_interleave(4, 1).repeat_interleave(4, 2).repeat(1, 1, 1, 3)
    table = bicubic_table(64, 2)
    got, pixels = run_kernel(launch_upsample, frames, table, table, (128, 128), (0, 0), torch.float32)
    expected = upsample(frames, 2)
    assert len(expected.unique()) == 256
    assert torch.equal(got, expected)
    assert torch.equal(pixels, unshuffle(expected))


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


def test_a_layout_that_split_frames_cannot_read_is_refused(run_kernel):
    with pytest.raises(ValueError, match="channels-last"):
        run_kernel(launch_split, torch.zeros(1, 8, 3, 3), 2, False)


@pytest.mark.parametrize("carried", ["a view of the last call's features", "zeros"])
@pytest.mark.parametrize(
    "shape", [(1, 24, 8, 12), (4, 24, 9, 7), (2, 192, 1, 1), (2, 1, 5, 5), (3, 16, 1, 7)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_past_is_what_came_one_frame_earlier(shape, carried, dtype):
    channels_last = {"memory_format": torch.channels_last}
    x, earlier = (random(*shape, seed=seed).to(dtype).contiguous(**channels_last) for seed in (0, 1))
    memory = torch.zeros(1, *shape[1:], dtype=dtype).contiguous(**channels_last)
    if carried != "zeros":
        memory = earlier[-1:]
    past = one_frame_earlier(x, memory)
    assert torch.equal(past, torch.cat([memory, x[:-1]]))
    # CUDA copies as bytes what is dense and alike on both sides: torch's iterator asks just this.
    for part, source in ((past[:1], memory), (past[1:], x[:-1])):
        assert part.stride() == source.stride()
        assert part.is_contiguous(**channels_last)
        assert source.is_contiguous(**channels_last)


@pytest.mark.parametrize("contiguous", [True, False])
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 1, 1), (2, 3, 5), (5, 4, 2)])
def test_the_decoder_s_input_is_condition_and_latent_side_by_side(frames, height, width, contiguous):
    latent = random(frames, 16, height, width)
    condition = random(4 * frames, 3, 8 * height, 8 * width, seed=1)
    if not contiguous:
        latent = latent.contiguous(memory_format=torch.channels_last)
        condition = condition.transpose(0, 1).contiguous().transpose(0, 1)
    got = decoder_input(latent, condition)
    assert torch.equal(got, torch.cat([condition_cells(condition), latent], dim=1))
    assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("frames", [1, 3])
def test_convolving_frame_by_frame_changes_nothing(frames):
    x = torch.randn(frames, 8, 6, 7).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(5, 8, 3, 3).contiguous(memory_format=torch.channels_last)
    made = convolve_by_frame(x, weight)
    torch.testing.assert_close(made, torch.nn.functional.conv2d(x, weight), rtol=1e-5, atol=1e-5)
    assert made.is_contiguous(memory_format=torch.channels_last)
