"""Remakes this GPU's entries of `kernels/tuning.json`: python -m bench.tune_kernels [--only KERNEL].

Every setting is checked against the twin's result before it is timed; the fastest goes into the table.
"""

import argparse
import dataclasses
import itertools
import json
from collections.abc import Callable

import torch
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources

from bench.gpu_timing import median_microseconds, require_gpu
from bench.kernel_problems import attention_problem, in_ring
from flashvsr_trt.kernels.add_norm import add_norm, add_norm_reference
from flashvsr_trt.kernels.attention_launch import launch_attention
from flashvsr_trt.kernels.block_sparse_attention import block_sparse_attention_reference
from flashvsr_trt.kernels.calls import architecture_of
from flashvsr_trt.kernels.conv_to_rgb import conv_to_rgb_reference, launch_conv_to_rgb, tap_columns
from flashvsr_trt.kernels.finish_frames import finish_frames, finish_frames_reference
from flashvsr_trt.kernels.norm_rope import norm_rope, norm_rope_reference
from flashvsr_trt.kernels.select_blocks import select_blocks_reference
from flashvsr_trt.kernels.select_blocks_triton import launch_select_blocks
from flashvsr_trt.kernels.tuning import TABLE, Setting

LR_SIZE = (384, 640)
"""Height and width of the LR frame to tune at: 1280x768 after upscaling."""

BF16 = {"rtol": 2e-2, "atol": 6e-2}

Run = Callable[[Setting], tuple[torch.Tensor, ...]]


def fastest(
    name: str,
    settings: list[Setting],
    run: Run,
    expected: tuple[torch.Tensor, ...],
    rtol: float = 0.0,
    atol: float = 0.0,
) -> Setting:
    """The fastest of the settings that run and give what the twin gives. Raises ValueError if none does."""
    times = {}
    for place, setting in enumerate(settings):
        try:
            result = run(setting)
            for got, wanted in zip(result, expected, strict=True):
                torch.testing.assert_close(got.float(), wanted.float(), rtol=rtol, atol=atol)
            times[place] = median_microseconds(lambda setting=setting: run(setting))
        except (OutOfResources, CompilationError) as error:
            print(f"  {name} {setting}: {type(error).__name__}")
    if not times:
        raise ValueError(f"no setting of {name} runs here")
    for place in sorted(times, key=times.get)[:5]:
        setting = settings[place]
        print(
            f"  {name} {times[place]:8.1f} us  {setting.implementation} warps {setting.num_warps} "
            f"stages {setting.num_stages} {setting.constants}"
        )
    return settings[min(times, key=times.get)]


def _grid(num_warps: tuple[int, ...], num_stages: tuple[int, ...] = (1,), **constants) -> list[Setting]:
    """Every combination of the given values."""
    return [
        Setting(warps, stages, dict(zip(constants, values, strict=True)))
        for warps, stages, *values in itertools.product(num_warps, num_stages, *constants.values())
    ]


def _launches(launch: Callable, *arguments) -> Run:
    """Runs a launcher on its arguments, with a setting to be given."""

    def run(setting: Setting) -> tuple[torch.Tensor, ...]:
        result = launch(*arguments, setting)
        return result if isinstance(result, tuple) else (result,)

    return run


def tune_select_blocks(_: str) -> Setting:
    """Tile and lanes of the threshold search, rows and columns of the compaction."""
    problem = in_ring(attention_problem(*LR_SIZE))
    arguments = (problem.probability, problem.slot_valid, problem.top_k)
    run = _launches(launch_select_blocks, *arguments)
    settings = _grid(
        (8, 16, 32), TILE=(4096, 8192), LANES=(1024,), ROWS=(4, 8), COLUMNS=(512,), GROUPS=(8, 11)
    )
    return fastest("select_blocks", settings, run, select_blocks_reference(*arguments))


def tune_attention(architecture: str, head_dim: int) -> Setting:
    """The portable kernel's tiles, and on Hopper the warp-specialised one's."""
    problem = in_ring(attention_problem(*LR_SIZE, head_dim=head_dim))
    index, count = select_blocks_reference(problem.probability, problem.slot_valid, problem.top_k)
    tensors = (problem.q, problem.k, problem.v, problem.ring_k, problem.ring_v, index, count)
    settings = _grid((4, 8), (2, 3), KEYS=(64, 128))
    if architecture == "sm_90" and head_dim == 128:
        hopper = _grid((4,), STAGES=(2, 3), LONGEST_FIRST=(0, 1))
        settings += [dataclasses.replace(setting, implementation="hopper") for setting in hopper]

    return fastest(
        f"block_sparse_attention d{head_dim}",
        settings,
        _launches(launch_attention, tensors),
        (block_sparse_attention_reference(*tensors),),
        **BF16,
    )


def tune_norm_rope(_: str) -> Setting:
    """Tokens a step."""
    problem = attention_problem(*LR_SIZE)
    tokens, heads, head_dim = problem.q.shape
    q, k = problem.q.flatten(1), problem.k.flatten(1)
    weight = torch.rand(heads * head_dim, device="cuda")
    angle = torch.rand(tokens, head_dim // 2, device="cuda")
    cos, sin = angle.cos(), angle.sin()
    q_out, k_out, expected_out = (torch.empty_like(problem.q) for _ in range(3))
    inner = _launches(norm_rope, q, k, weight, weight, cos, sin, 1e-6, q_out, k_out, (1.0, 1.0))
    means = norm_rope_reference(q, weight, cos, sin, 1e-6, expected_out)
    settings = _grid((2, 4, 8), TOKENS=(1, 2, 4), PARTS=(2, 4, 8))
    return fastest(
        "norm_rope", settings, lambda setting: (inner(setting)[0], q_out), (means, expected_out), **BF16
    )


def tune_add_norm(_: str) -> Setting:
    """Tokens a program."""
    problem = attention_problem(*LR_SIZE)
    x, branch = problem.q.flatten(1), problem.k.flatten(1)
    gate, weight, bias = torch.randn(3, x.shape[1], device="cuda")
    arguments = (x, branch, gate, weight, bias, 1e-6)
    run = _launches(add_norm, *arguments, False)
    return fastest(
        "add_norm", _grid((1, 2, 4, 8), TOKENS=(1, 2, 4)), run, add_norm_reference(*arguments), **BF16
    )


def tune_finish_frames(_: str) -> Setting:
    """Pixels a program."""
    frames, reference = torch.randn(2, 8, 3, 768, 1280, device="cuda").mul(0.5).bfloat16()
    run = _launches(finish_frames, frames, reference)
    expected = (finish_frames_reference(frames, reference),)

    settings = _grid((4, 8), PIXELS=(1024, 2048, 4096, 8192))
    # One grey level of rounding is allowed.
    return fastest("finish_frames", settings, run, expected, atol=1)


def tune_conv_to_rgb(_: str) -> Setting:
    """Columns and rows of a program, and how many rows are on their way to it."""
    x = torch.randn(8, 768, 1280, 128, device="cuda").bfloat16().permute(0, 3, 1, 2)
    weight = torch.randn(3, 128, 3, 3, device="cuda").mul(1152**-0.5).bfloat16()
    bias = torch.randn(3, device="cuda").bfloat16()
    run = _launches(launch_conv_to_rgb, x, tap_columns(weight), bias)
    settings = _grid((4, 8), (2, 3, 4), PIXELS=(64, 128), ROWS=(16, 32, 64))
    return fastest("conv_to_rgb", settings, run, (conv_to_rgb_reference(x, weight, bias),), **BF16)


def main() -> None:
    """Tunes and rewrites the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="tune this kernel alone; may be repeated")
    parser.add_argument("--output", default=TABLE, help="where the table is written")
    options = parser.parse_args()
    print(require_gpu())
    architecture = architecture_of(torch.device("cuda", 0))
    table = json.loads(TABLE.read_text())
    tuners = {
        "select_blocks": tune_select_blocks,
        "norm_rope": tune_norm_rope,
        "add_norm": tune_add_norm,
        "finish_frames": tune_finish_frames,
        "conv_to_rgb": tune_conv_to_rgb,
    }
    for kernel in options.only or [*tuners, "block_sparse_attention"]:
        if kernel == "block_sparse_attention":
            table[kernel][architecture] = {
                str(head_dim): _entry(tune_attention(architecture, head_dim)) for head_dim in (32, 128)
            }
        else:
            table[kernel][architecture] = _entry(tuners[kernel](architecture))
    with open(options.output, "w") as file:
        file.write(json.dumps(table, indent=1) + "\n")
    print(f"wrote {options.output}")


def _entry(setting: Setting) -> dict:
    entry = dataclasses.asdict(setting)
    if setting.implementation == "portable":
        del entry["implementation"]
    return entry


if __name__ == "__main__":
    main()
