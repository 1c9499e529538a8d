"""Every kernel, and its form compiled ahead of time, against the references at real sizes."""

import pytest
import torch
import torch.nn.functional as F

from bench.kernel_problems import SCENES, attention_problem, in_ring
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.pictures import FIXED_POINT_BITS
from flashvsr_trt.config.presets import TOKEN_STRIDE
from flashvsr_trt.kernels.add_norm import add_norm, add_norm_reference
from flashvsr_trt.kernels.attention_launch import attention_setting
from flashvsr_trt.kernels.block_sparse_attention import block_sparse_attention_reference
from flashvsr_trt.kernels.calls import architecture_of, kernel_calls, reset_kernel_calls
from flashvsr_trt.kernels.conv_relu import conv_relu, conv_relu_reference
from flashvsr_trt.kernels.conv_to_rgb import ConvToRGB
from flashvsr_trt.kernels.cuda_driver import call
from flashvsr_trt.kernels.finish_frames import finish_frames, finish_frames_reference
from flashvsr_trt.kernels.launch import (
    launch_prepared,
    load_kernel,
    output_shape,
    prepare_launch,
)
from flashvsr_trt.kernels.linear_gelu import linear_gelu
from flashvsr_trt.kernels.manifest import find_artifact
from flashvsr_trt.kernels.norm_rope import norm_rope, norm_rope_reference
from flashvsr_trt.kernels.norm_silu import conv_norm_silu, norm_silu_reference
from flashvsr_trt.kernels.select_blocks import select_blocks_reference
from flashvsr_trt.kernels.split_frames import split_frames, split_frames_reference
from flashvsr_trt.kernels.stack_frames import stack_frames, stack_frames_reference
from flashvsr_trt.kernels.torch_ops import block_sparse_attention, select_blocks
from flashvsr_trt.kernels.tuning import setting_for
from flashvsr_trt.model.fused_projector import unshuffle
from flashvsr_trt.model.upsample import bicubic_table, fit_to_target, upsample

pytestmark = pytest.mark.gpu

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def assert_near(got, wanted, limit=3e-3):
    """The error's norm relative to the result's: bf16 rounds the probabilities and the result."""
    assert torch.isfinite(got).all()
    error = torch.linalg.vector_norm(got.float() - wanted.float()) / torch.linalg.vector_norm(wanted.float())
    assert error < limit


def attention_arguments(problem):
    chosen = select_blocks_reference(problem.probability, problem.slot_valid, problem.top_k)
    return (problem.q, problem.k, problem.v, problem.ring_k, problem.ring_v, *chosen)


def expected_attention(arguments):
    return block_sparse_attention_reference(*(x.float() if x.is_floating_point() else x for x in arguments))


@pytest.mark.parametrize("own_in_ring", [True, False])
@pytest.mark.parametrize("contrast", [0.1, 3.0])
@pytest.mark.parametrize("scene", SCENES)
def test_select_blocks_keeps_the_references_blocks(scene, contrast, own_in_ring):
    problem = attention_problem(*SCENES[scene], contrast=contrast)
    problem = in_ring(problem) if own_in_ring else problem
    arguments = (problem.probability, problem.slot_valid, problem.top_k)
    index, count = select_blocks(*arguments)
    expected_index, expected_count = select_blocks_reference(*arguments)
    assert torch.equal(count, expected_count)
    assert torch.equal(index, expected_index)
    again_index, again_count = select_blocks(*arguments)
    assert torch.equal(index, again_index)
    assert torch.equal(count, again_count)


@pytest.mark.parametrize("own_in_ring", [True, False])
@pytest.mark.parametrize(
    ("scene", "head_dim", "dtype"),
    [
        ("640x384", 128, "bf16"),
        ("640x384", 128, "fp16"),
        ("640x384", 32, "bf16"),
        ("704x384", 128, "bf16"),
        ("1280x704", 128, "bf16"),
    ],
)
def test_attention_is_the_references(scene, head_dim, dtype, own_in_ring):
    problem = attention_problem(*SCENES[scene], head_dim, contrast=3.0, dtype=DTYPES[dtype])
    problem = in_ring(problem) if own_in_ring else problem
    arguments = attention_arguments(problem)
    reset_kernel_calls()
    out = block_sparse_attention(*arguments)
    setting = attention_setting("block_sparse_attention", problem.q)
    assert kernel_calls() == {f"block_sparse_attention/{setting.implementation}": 1}
    assert_near(out, expected_attention(arguments))


def test_rows_without_blocks_and_full_rows_on_the_gpu():
    arguments = list(attention_arguments(attention_problem(384, 384)))
    index, count = arguments[5:]
    arguments[5] = (
        torch.arange(index.shape[-1], dtype=torch.int32, device="cuda").expand_as(index).contiguous()
    )
    arguments[6] = torch.where(torch.arange(count.shape[1], device="cuda") % 3 == 0, 0, index.shape[-1])
    arguments[6] = arguments[6].to(torch.int32).expand_as(count).contiguous()
    out = block_sparse_attention(*arguments)
    assert not out.unflatten(0, (-1, 128))[::3].any()
    assert_near(out, expected_attention(arguments))


def test_a_captured_graph_follows_its_inputs():
    problem, other = (attention_problem(384, 384, contrast=contrast) for contrast in (1.0, 2.0))

    def layer():
        chosen = select_blocks(problem.probability, problem.slot_valid, problem.top_k)
        return block_sparse_attention(
            problem.q, problem.k, problem.v, problem.ring_k, problem.ring_v, *chosen
        )

    layer()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = layer()
    for name in ("q", "k", "v", "ring_k", "ring_v", "probability"):
        getattr(problem, name).copy_(getattr(other, name))
    graph.replay()
    assert_near(out, expected_attention(attention_arguments(other)))


def test_norm_rope_on_the_gpu():
    problem = attention_problem(384, 640)
    tokens, heads, head_dim = problem.q.shape
    q, k = problem.q.flatten(1), problem.k.flatten(1)
    weight = torch.rand(heads * head_dim, device="cuda").bfloat16()
    angle = torch.rand(tokens, head_dim // 2, device="cuda") * 100
    rope = (angle.cos(), angle.sin(), 1e-6)
    outs, expected = (
        torch.full((2, *problem.q.shape), torch.nan, device="cuda").bfloat16() for _ in range(2)
    )
    means = norm_rope(q, k, weight, weight, *rope, *outs)
    for x, mean, out, wanted in zip((q, k), means, outs, expected, strict=True):
        wanted_mean = norm_rope_reference(x, weight, *rope, wanted)
        assert_near(out, wanted)
        torch.testing.assert_close(mean, wanted_mean, rtol=1e-3, atol=1e-3)


def test_add_norm_on_the_gpu():
    problem = attention_problem(384, 640)
    gate, weight, bias = torch.randn(3, 1536, device="cuda").bfloat16()
    arguments = (problem.q.flatten(1), problem.k.flatten(1), gate, weight, bias, 1e-6)
    for got, wanted in zip(add_norm(*arguments), add_norm_reference(*arguments), strict=True):
        assert_near(got, wanted)


def test_finish_frames_on_the_gpu():
    frames, reference = torch.randn(2, 8, 3, 768, 1280, device="cuda").mul(0.5)
    frames = frames / 2 + 0.5
    got, wanted = finish_frames(frames, reference).int(), finish_frames_reference(frames, reference).int()
    assert (got - wanted).abs().max() <= 1
    assert (got != wanted).float().mean() < 1e-3


def channels_last(*shape):
    return torch.randn(shape, device="cuda").bfloat16().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize(
    ("channels", "height", "width"),
    [(128, 384, 704), (256, 96, 176), (3, 37, 53), (12, 64, 96), (24, 64, 96), (56, 37, 53)],
)
def test_split_frames_on_the_gpu(channels, height, width, relu):
    grown = channels_last(4, 2 * channels, height, width)
    assert torch.equal(split_frames(grown, 2, relu), split_frames_reference(grown, 2, relu))


@pytest.mark.parametrize("starts", [True, False])
@pytest.mark.parametrize("shape", [(768, 48, 88), (24, 5, 7), (2048, 88, 160)])
def test_stack_frames_on_the_gpu(shape, starts):
    tail, x = (channels_last(frames, *shape) for frames in (2, 4))
    first = torch.tensor(starts, device="cuda")
    assert torch.equal(stack_frames(tail, x, first), stack_frames_reference(tail, x, first))


def test_a_captured_stacking_follows_the_flag_that_a_clip_starts():
    tail, x = (channels_last(frames, 48, 6, 9) for frames in (2, 8))
    first = torch.tensor(True, device="cuda")
    stack_frames(tail, x, first)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = stack_frames(tail, x, first)
    for starts in (False, True):
        first.fill_(starts)
        graph.replay()
        assert torch.equal(out, stack_frames_reference(tail, x, first))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("inputs", "channels"), [(96, 2048), (96, 3072), (96, 48), (96, 24), (24, 10), (24, 6)]
)
def test_norm_silu_on_the_gpu(inputs, channels, dtype):
    stacked = torch.randn(2, inputs, 46, 82, device="cuda").to(dtype)
    stacked = stacked.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, inputs, 3, 3, device="cuda").to(dtype)
    weight = weight.contiguous(memory_format=torch.channels_last)
    bias, gamma = torch.randn(2, channels, device="cuda").to(dtype)
    reset_kernel_calls()
    got = conv_norm_silu(stacked, weight, bias, gamma)
    assert kernel_calls() == {"norm_silu/triton": 1}
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert_near(got, norm_silu_reference(F.conv2d(stacked, weight).float(), bias, gamma))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("frames", "channels", "height", "width"),
    [(2, 128, 384, 704), (1, 128, 45, 131), (2, 16, 1, 1), (1, 24, 37, 53), (1, 300, 21, 70)],
)
def test_conv_to_rgb_on_the_gpu(frames, channels, height, width, dtype):
    conv = torch.nn.Conv2d(channels, 3, 3, padding=1, device="cuda").to(dtype).requires_grad_(False)
    x = channels_last(frames, channels, height, width).to(dtype)
    expected = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    reset_kernel_calls()
    got = ConvToRGB(conv.weight, conv.bias)(x)
    assert kernel_calls() == {"conv_to_rgb/triton": 1}
    torch.testing.assert_close(got, expected.float(), rtol=1e-4, atol=1e-4)


def test_conv_to_rgb_of_more_values_than_32_bits_count():
    conv = torch.nn.Conv2d(128, 3, 3, padding=1, device="cuda").bfloat16().requires_grad_(False)
    x = channels_last(1, 128, 1408, 2560).expand(6, -1, -1, -1)
    x = x.contiguous(memory_format=torch.channels_last)
    assert x.numel() > 2**31
    got = ConvToRGB(conv.weight, conv.bias)(x)
    assert torch.equal(got, got[:1].expand_as(got))
    corner = F.conv2d(x[:1, :, -9:, -9:].double(), conv.weight.double(), conv.bias.double(), padding=1)
    torch.testing.assert_close(got[-1:, :, -8:, -8:], corner[..., 1:, 1:].float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(("channels", "height", "width"), [(512, 96, 176), (128, 384, 704)])
def test_fused_convolutions_on_the_gpu(channels, height, width, residual):
    x, added = (channels_last(2, channels, height, width) for _ in range(2))
    conv = torch.nn.Conv2d(channels, channels, 3, device="cuda").bfloat16().requires_grad_(False)
    arguments = (x, conv.weight, conv.bias, added if residual else None)
    reset_kernel_calls()
    got = conv_relu(*arguments)
    assert kernel_calls() == {"conv_relu/cudnn": 1}
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert_near(got, conv_relu_reference(*(a.float() if a is not None else None for a in arguments)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(("scale", "fit"), [(2, "pad"), (4, "crop")])
def test_upsampled_frames_on_the_gpu(scale, fit, dtype):
    geometry = Geometry(352, 500, scale, fit)
    frames = torch.randint(0, 256, (8, 352, 500, 3), device="cuda", dtype=torch.uint8)
    tables = tuple(bicubic_table(size, scale).cuda() for size in (352, 500))
    setting = setting_for("upsample_frames", architecture_of(frames.device))
    from flashvsr_trt.kernels.upsample_triton import launch_upsample_frames

    out = torch.full((8, 3, *geometry.target), torch.nan, device="cuda")
    corner = geometry.crop_corner
    pixels = launch_upsample_frames(
        frames, tables, corner, FIXED_POINT_BITS, TOKEN_STRIDE, out, dtype, setting
    )
    expected = fit_to_target(upsample(frames.cpu(), scale), corner, geometry.target)
    assert torch.equal(out.cpu(), expected)
    assert torch.equal(pixels.permute(0, 3, 1, 2).cpu(), unshuffle(expected.to(dtype)))


def test_linear_gelu_on_the_gpu():
    x, weight = (torch.randn(shape, device="cuda").bfloat16() for shape in ((1000, 1536), (8960, 1536)))
    bias = torch.randn(8960, device="cuda").bfloat16()
    expected = F.gelu(F.linear(x.float(), weight.float(), bias.float()), approximate="tanh")
    assert_near(linear_gelu(x, weight, bias), expected)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    from flashvsr_trt.kernels.compile import build_kernels

    directory = tmp_path_factory.mktemp("kernels")
    architecture = architecture_of(torch.device("cuda", 0))
    return directory, architecture, build_kernels((architecture,), directory, workers=4)


def run_cubin(built, name, inputs, values=None):
    """Launches a built kernel without Triton, on a stream of its own; returns its outputs."""
    directory, architecture, artifacts = built
    artifact = find_artifact(artifacts, name, architecture)
    shapes = {key: tuple(tensor.shape) for key, tensor in inputs.items()}
    types = {"*i32": torch.int32, "*bf16": torch.bfloat16, "*fp16": torch.float16}
    outputs = {
        item.name: torch.zeros(
            output_shape(artifact, item.name, shapes, values), dtype=types[item.type], device="cuda"
        )
        for item in artifact.arguments
        if item.role in ("output", "scratch")
    }
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    kernel = load_kernel(artifact, directory)
    pointers = {key: tensor.data_ptr() for key, tensor in (inputs | outputs).items()}
    launch_prepared(prepare_launch(kernel, shapes, values), stream.cuda_stream, pointers)
    stream.synchronize()
    call("cuLibraryUnload", kernel.library)
    return [tensor for key, tensor in outputs.items() if key != "scratch"]


def test_the_built_block_selection_keeps_the_references_blocks(built):
    problem = attention_problem(384, 640)
    inputs = {"probability": problem.probability, "slot_valid": problem.slot_valid}
    index, count = run_cubin(built, "select_blocks", inputs, {"top_k": problem.top_k})
    expected = select_blocks_reference(problem.probability, problem.slot_valid, problem.top_k)
    assert torch.equal(index, expected[0])
    assert torch.equal(count, expected[1])


@pytest.mark.parametrize(("head_dim", "form"), [(32, ""), (128, ""), (128, "_48k")])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_built_attention_is_the_references(built, dtype, head_dim, form):
    arguments = attention_arguments(attention_problem(384, 384, head_dim, dtype=DTYPES[dtype]))
    names = ("q", "k", "v", "ring_k", "ring_v", "index", "count")
    inputs = dict(zip(names, arguments, strict=True))
    (out,) = run_cubin(built, f"block_sparse_attention_{dtype}_d{head_dim}{form}", inputs)
    assert_near(out, expected_attention(arguments))
