"""The kernel of the decoder's last convolution against its reference, and what it is compiled to."""

import re

import pytest
import torch

from flashvsr_trt.kernels.conv_to_rgb import conv_to_rgb_reference, launch_conv_to_rgb, tap_columns
from flashvsr_trt.kernels.ptx import assemble
from flashvsr_trt.kernels.tuning import ARCHITECTURES, SHARED_LIMIT, Setting, capability_number, setting_for

triton = pytest.importorskip("triton", reason="kernels need Triton (extra 'kernels')")

SMALL = Setting(num_warps=4, num_stages=2, constants={"PIXELS": 16, "ROWS": 4})


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def launch_rgb(x, weight, bias):
    return launch_conv_to_rgb(x, tap_columns(weight), bias, SMALL)


# Triton's interpreter has no bfloat16 products; the GPU's tests have.
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("channels", [1, 8, 24, 128, 300])
# Each program is interpreted: sizes that have many are one frame, the others two.
@pytest.mark.parametrize(("frames", "height", "width"), [(2, 1, 1), (2, 4, 14), (1, 9, 15), (1, 5, 43)])
def test_conv_to_rgb_gives_what_the_reference_gives(run_kernel, frames, height, width, channels, dtype):
    x = random(frames, channels, height, width).to(dtype).contiguous(memory_format=torch.channels_last)
    weight = random(3, channels, 3, 3, seed=1).mul((9 * channels) ** -0.5).to(dtype)
    bias = random(3, seed=2).to(dtype)
    got = run_kernel(launch_rgb, x, weight, bias)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, conv_to_rgb_reference(x, weight, bias), rtol=1e-5, atol=1e-5)


def test_each_tap_reaches_its_neighbour_alone(run_kernel):
    x = torch.zeros(1, 8, 11, 31).contiguous(memory_format=torch.channels_last)
    x[..., ::3, ::4] = 1
    weight, bias = random(3, 8, 3, 3), torch.zeros(3)
    expected = conv_to_rgb_reference(x, weight, bias)
    torch.testing.assert_close(run_kernel(launch_rgb, x, weight, bias), expected, rtol=1e-6, atol=1e-6)


def test_a_layout_that_conv_to_rgb_cannot_read_is_refused(run_kernel):
    with pytest.raises(ValueError, match="channels-last"):
        run_kernel(launch_rgb, torch.zeros(1, 8, 3, 3), torch.zeros(3, 8, 3, 3), torch.zeros(3))


def compiled_for(architecture, dtype, channels):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from flashvsr_trt.kernels.conv_to_rgb import conv_to_rgb_rows, product_depth

    setting = setting_for("conv_to_rgb", architecture)
    value_bytes = {"bf16": 2, "fp32": 4}[dtype]
    fixed = setting.constants | {"CHANNELS": channels, "DEPTH": product_depth(channels, value_bytes)}
    types = dict.fromkeys(("x", "columns", "bias"), f"*{dtype}") | {"out": "*fp32"}
    types |= dict.fromkeys(("height", "width"), "i32") | dict.fromkeys(fixed, "constexpr")
    aligned = {(place,): [["tt.divisibility", 16]] for place in range(4)}
    source = ASTSource(conv_to_rgb_rows, types, fixed, aligned)
    options = {"num_warps": setting.num_warps, "num_stages": setting.num_stages, "ptx_version": 87}
    target = GPUTarget("cuda", capability_number(architecture), 32)
    return triton.compile(source, target=target, options=options | {"enable_fp_fusion": True})


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_go_to_shared_memory_sixteen_bytes_at_once_and_nothing_is_spilled(architecture):
    from triton import knobs

    compiled = compiled_for(architecture, "bf16", 128)
    copies = re.findall(r"cp\.async\.\w+\.shared\.global [^;]*, (0x\w+)", compiled.asm["ptx"])
    assert set(copies) == {"0x10"}
    target = f"{architecture}a" if capability_number(architecture) >= 90 else architecture
    assert assemble(compiled.asm["ptx"], target, knobs.nvidia.ptxas.path).spill_bytes == 0


@pytest.mark.parametrize(("dtype", "channels"), [("fp32", 128), ("bf16", 512), ("bf16", 24)])
def test_other_values_and_channels_fit_every_architecture(dtype, channels):
    for architecture in ("sm_86", "sm_90"):
        assert compiled_for(architecture, dtype, channels).metadata.shared <= SHARED_LIMIT[architecture]
