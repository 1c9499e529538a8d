"""FP8 beside bfloat16 on one GPU, in about a minute: python -m bench.fp8 [--scene 1280x704] [--chunks 8].

Prints as it goes, so that a run which is cut has told what it found: (1) error and rate of each FP8 attention
kernel against bfloat16's, and of FP8 products of our own against what they replace; (2) a target of 1280x768
in bfloat16 with the projector's frames whole and one by one, in turn; (3) the scene in bfloat16, fp8 and
fp8-attention: ms a chunk, and PSNR to bfloat16's frames.
Weights are loaded once. `bench.kernels`, `bench.pipeline` and `bench.accuracy` tell more, one by one.
"""

import math
import statistics
import time
from functools import partial

import click
import numpy as np
import torch
import torch.nn.functional as F

from bench.accuracy import structured_frame
from bench.gpu_timing import median_microseconds, milliseconds_each, require_gpu
from bench.kernel_problems import SCENES, attention_problem, fp8_operands, in_ring
from bench.pipeline import DTYPE, stream_for
from bench.steady_stages import load_random
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import DEFAULT_PRESET, UNIT_FRAMES, WINDOW_TOKENS, find_preset
from flashvsr_trt.config.signatures import PIXEL_CHANNELS
from flashvsr_trt.kernels import norm_silu
from flashvsr_trt.kernels.block_sparse_attention_fp8 import AttentionScales, block_sparse_attention_fp8
from flashvsr_trt.kernels.calls import architecture_of
from flashvsr_trt.kernels.fp8 import (
    LARGEST,
    Quantised,
    fp8_product,
    quantise_rows,
    quantise_rows_reference,
    to_e4m3,
)
from flashvsr_trt.kernels.fp8_products import (
    convolution,
    convolution_reference,
    gelu_product,
    gelu_product_reference,
    kernel_taking,
)
from flashvsr_trt.kernels.stack_frames import FRAMES
from flashvsr_trt.kernels.torch_ops import block_sparse_attention, select_blocks
from flashvsr_trt.kernels.tuning import Setting, setting_for
from flashvsr_trt.model.network import Network
from flashvsr_trt.model.running_dit import ATTENTION
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.request import DIT_PRECISIONS, TorchOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.precision import fp8_choices

BY_FRAME_SCENE = "640x384"
"""Upscaled to 1280x768, where cuDNN chooses badly."""

WARM_UP_CHUNKS = 6
"""Past the first step and the ring's first round; CUDA graphs are off."""

PORTABLE = Setting(8, 2, {"KEYS": 64})


def compare_attention(scene: str) -> None:
    """Each FP8 kernel's difference from bfloat16's result, and both rates."""
    problem = in_ring(attention_problem(*SCENES[scene]))
    index, count = select_blocks(problem.probability, problem.slot_valid, problem.top_k)
    tensors = problem.q, problem.k, problem.v, problem.ring_k, problem.ring_v, index, count
    flop = int(count.sum()) * 4 * WINDOW_TOKENS**2 * problem.q.shape[-1]
    wanted = block_sparse_attention(*tensors).float()
    rate = flop / median_microseconds(lambda: block_sparse_attention(*tensors)) / 1e6
    say(f"{scene}: attention in bfloat16 {rate:.0f} TFLOP/s")
    scales = AttentionScales(*[8 / LARGEST] * 3, problem.q.dtype)
    operands = *fp8_operands(problem, scales), index, count, scales
    setting = setting_for(
        "block_sparse_attention_fp8", architecture_of(problem.q.device), problem.q.shape[-1]
    )
    for name, chosen in {setting.implementation: setting, "portable": PORTABLE}.items():
        call = partial(block_sparse_attention_fp8, *operands, chosen)
        error = float((call().float() - wanted).norm() / wanted.norm())
        fp8_rate = flop / median_microseconds(call) / 1e6
        say(
            f"{scene}: in FP8, {name}, {fp8_rate:.0f} TFLOP/s, {fp8_rate / rate:.2f} times; error {error:.3f}"
        )


def compare_gelu_product(scene: str) -> None:
    """The feed-forward's first product with GELU in one kernel, and as two."""
    config = find_preset(DEFAULT_PRESET).network.dit
    tokens = Geometry(*SCENES[scene], scale=2).unit_windows * WINDOW_TOKENS
    generator = torch.Generator("cuda").manual_seed(0)
    x, weight = (
        quantise_rows(torch.randn(rows, config.dim, device="cuda", generator=generator).to(DTYPE))
        for rows in (tokens, config.ffn_dim)
    )
    weight = weight._replace(scale=weight.scale / math.sqrt(config.dim))
    bias, scale = torch.zeros(config.ffn_dim, device="cuda", dtype=DTYPE), 1 / 4
    if kernel_taking("fp8_gelu_product", architecture_of(x.values.device), *weight.values.shape) is None:
        say(f"{scene}: no kernel makes GELU with its product on this GPU")
        return
    call = partial(gelu_product, x, weight, bias, scale)
    part = Quantised(x.values[-WINDOW_TOKENS:], x.scale[-WINDOW_TOKENS:])
    wanted = gelu_product_reference(part, weight, bias, scale).wide()
    error = float((call().wide()[-WINDOW_TOKENS:] - wanted).norm() / wanted.norm())
    took = median_microseconds(call)
    apart = median_microseconds(lambda: quantise_rows(fp8_product(x, weight, bias), gelu=True))
    flop = 2 * tokens * config.dim * config.ffn_dim
    say(
        f"{scene}: product with GELU {took:.0f} us, {flop / took / 1e6:.0f} TFLOP/s, {took / apart:.2f} of "
        f"two kernels' {apart:.0f}; error to the reference {error:.4f}"
    )


def compare_convolutions(scene: str) -> None:
    """The projector's convolutions in FP8, and cuDNN's in bfloat16."""
    hidden = find_preset(DEFAULT_PRESET).network.projector.hidden
    height, width = Geometry(*SCENES[scene], scale=2).tokens
    for frames, inputs, outputs in ((4, PIXEL_CHANNELS, hidden[0]), (2, *hidden)):
        channels = FRAMES * inputs
        generator = torch.Generator("cuda").manual_seed(0)
        shape = frames, height + 2, width + 2, channels
        x = torch.randn(shape, device="cuda", generator=generator, dtype=DTYPE).permute(0, 3, 1, 2)
        rows = torch.randn(outputs, 9 * channels, device="cuda", generator=generator, dtype=DTYPE)
        weight, taps = quantise_rows_reference(rows), rows.unflatten(1, (3, 3, -1)).permute(0, 3, 1, 2)
        if kernel_taking("fp8_convolution", architecture_of(x.device), outputs, channels) is None:
            say(f"{scene}: no kernel convolves in FP8 on this GPU")
            return
        pixels = to_e4m3(x)
        call = partial(convolution, pixels, weight, DTYPE)
        corner = pixels[-1:, :, -10:, -18:]
        wanted = convolution_reference(corner, weight, torch.float32)
        error = float((call()[-1:, :, -8:, -16:] - wanted).norm() / wanted.norm())
        took = median_microseconds(call, calls=1)
        cudnn = median_microseconds(lambda x=x, taps=taps: F.conv2d(x, taps), calls=1)
        flop = 2 * frames * height * width * 9 * channels * outputs
        say(
            f"{scene}: {channels} channels convolved in FP8 {took:.0f} us, {flop / took / 1e6:.0f} TFLOP/s, "
            f"{took / cudnn:.2f} of cuDNN's {cudnn:.0f} in bfloat16; error to the reference {error:.4f}"
        )


def run(
    network: Network, scene: str, precision: str, chunks: int, recorded: int = 0
) -> tuple[float, np.ndarray]:
    """Milliseconds a steady chunk, and the frames that the first `recorded` pushes gave."""
    options = TorchOptions(cuda_graphs=False, precision=precision)
    session = Session(TorchExecutor(network, stream_for(scene, DEFAULT_PRESET), options), overlap=True)
    height, width = SCENES[scene]
    frames = np.stack([structured_frame(index, height, width) for index in range(UNIT_FRAMES)])
    made = []
    for chunk in range(max(recorded, WARM_UP_CHUNKS)):
        given = session.push(np.roll(frames, 9 * chunk, axis=2))
        if chunk < recorded:
            made.append(np.array(given))
    took = milliseconds_each(lambda: session.push(frames), chunks)
    return took, np.concatenate(made) if made else frames[:0]


def compare_by_frame(network: Network, chunks: int) -> None:
    """bfloat16 with the projector's frames whole and as `kernels/frame_by_frame.json` has them, in turn."""
    chosen, times = norm_silu.frame_by_frame, {"whole": [], "as chosen": []}
    for _ in range(2):
        for name, way in (("whole", lambda *_: False), ("as chosen", chosen)):
            norm_silu.frame_by_frame = way
            times[name].append(run(network, BY_FRAME_SCENE, DIT_PRECISIONS[0], chunks)[0])
    whole, by_frame = map(statistics.mean, times.values())
    say(f"{BY_FRAME_SCENE}: projector whole {whole:.1f} ms, as chosen {by_frame:.1f}: {by_frame / whole:.3f}")


def compare_precisions(network: Network, scene: str, chunks: int) -> None:
    """One network three ways, each with less of it in bfloat16."""
    before, wanted = run(network, scene, DIT_PRECISIONS[0], chunks, recorded=WARM_UP_CHUNKS)
    say(f"{scene}: bfloat16 {before:.1f} ms")
    dit = network.dit
    # Bounds on attention's operands are those of weights that are not quantised yet.
    dit.quantise(lambda name: name == ATTENTION)
    scales = [block.scales for block in dit.blocks]
    dit.quantise(lambda name: name != ATTENTION)
    choices = fp8_choices(network.device, find_preset(DEFAULT_PRESET).network)
    network.projector.quantise(lambda name: name in choices)
    for precision in DIT_PRECISIONS[1:]:
        for block, own in zip(dit.blocks, scales, strict=True):
            block.scales = own if precision == "fp8-attention" else None
        torch.cuda.empty_cache()
        took, got = run(network, scene, precision, chunks, recorded=WARM_UP_CHUNKS)
        parts = math.ceil(len(got) / UNIT_FRAMES)
        near = [psnr(*pair) for pair in zip(*(np.array_split(x, parts) for x in (wanted, got)), strict=True)]
        shown = ", ".join(f"{value:.1f}" for value in near)
        say(f"{scene}: {precision} {took:.1f} ms, {took / before:.3f} of bfloat16; {shown} dB a chunk")


STARTED = time.perf_counter()


def say(line: str) -> None:
    """A line with the time since the start."""
    click.echo(f"{time.perf_counter() - STARTED:6.1f} s  {line}")


@click.command()
@click.option("--scene", type=click.Choice(list(SCENES)), default="1280x704", show_default=True)
@click.option("--chunks", type=click.IntRange(min=1), default=8, show_default=True, help="Timed ones.")
def main(scene: str, chunks: int) -> None:
    """Print what was found as it is found."""
    say(f"{require_gpu()}, torch {torch.__version__}, {DEFAULT_PRESET}, random weights")
    compare_attention(scene)
    compare_gelu_product(scene)
    compare_convolutions(scene)
    torch.cuda.empty_cache()
    network = load_random(find_preset(DEFAULT_PRESET).network, DTYPE, "cuda")
    compare_by_frame(network, chunks)
    compare_precisions(network, scene, chunks)


if __name__ == "__main__":
    main()
