"""Times every kernel on this GPU: python -m bench.kernels [--scene WxH ...] [--json FILE].

Each line gives the median time, the rate and its share of a ceiling measured in the same run (bf16 matrix
product or device copy), and the time of what one would use instead.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from bench.gpu_timing import copy_ceiling, matmul_ceiling, median_microseconds, require_gpu
from bench.kernel_problems import SCENES, AttentionProblem, attention_problem, fp8_operands, in_ring
from flashvsr_trt.config.presets import DEFAULT_PRESET, UNIT_FRAMES, WINDOW_TOKENS, find_preset
from flashvsr_trt.kernels.add_norm import add_norm, add_norm_reference
from flashvsr_trt.kernels.attention_launch import attention_setting
from flashvsr_trt.kernels.block_sparse_attention import block_sparse_attention_reference
from flashvsr_trt.kernels.block_sparse_attention_fp8 import AttentionScales, block_sparse_attention_fp8
from flashvsr_trt.kernels.block_sparse_attention_scaled import block_sparse_attention_scaled
from flashvsr_trt.kernels.finish_frames import finish_frames, finish_frames_reference
from flashvsr_trt.kernels.fp8 import LARGEST, fp8_product, quantise_rows
from flashvsr_trt.kernels.linear_gelu import linear_gelu
from flashvsr_trt.kernels.norm_rope import norm_rope, norm_rope_reference
from flashvsr_trt.kernels.select_blocks import select_blocks_reference
from flashvsr_trt.kernels.torch_ops import block_sparse_attention, select_blocks
from flashvsr_trt.model.attention import LayerCache
from flashvsr_trt.model.fp8_cache import keep_units, widen_slots, zero_fp8_cache

EPS = 1e-6


@dataclass(frozen=True)
class Line:
    """One timed kernel. `rate` is TFLOP/s or GB/s; `share` its part of the measured ceiling."""

    scene: str
    kernel: str
    microseconds: float
    rate: float
    unit: str
    share: float
    instead: dict[str, float]


@dataclass(frozen=True)
class Ceilings:
    """What the device reaches: bf16 matrix product in TFLOP/s, device copy in GB/s."""

    tflops: float
    gbytes: float

    def compute(self, scene: str, kernel: str, call: Callable, flop: int, instead: dict[str, float]) -> Line:
        """A line for a kernel that the tensor cores bound."""
        time = median_microseconds(call)
        rate = flop / time / 1e6
        return Line(scene, kernel, time, rate, "TFLOP/s", rate / self.tflops, instead)

    def memory(self, scene: str, kernel: str, call: Callable, size: int, instead: dict[str, float]) -> Line:
        """A line for a kernel that memory bounds; `size` is the fewest bytes it can move."""
        time = median_microseconds(call)
        rate = size / time / 1e3
        return Line(scene, kernel, time, rate, "GB/s", rate / self.gbytes, instead)


def attention_lines(scene: str, problem: AttentionProblem, ceilings: Ceilings, flex: bool) -> Iterator[Line]:
    """Block selection and attention of one layer."""
    problem = in_ring(problem)
    chosen = (problem.probability, problem.slot_valid, problem.top_k)
    index, count = select_blocks(*chosen)
    size = problem.probability.nbytes + index.nbytes + count.nbytes
    instead = {"torch sort": median_microseconds(lambda: select_blocks_reference(*chosen))}
    yield ceilings.memory(scene, "select_blocks", lambda: select_blocks(*chosen), size, instead)

    tensors = (problem.q, problem.k, problem.v, problem.ring_k, problem.ring_v, index, count)
    head_dim = problem.q.shape[-1]
    flop = int(count.sum()) * 4 * WINDOW_TOKENS**2 * head_dim
    dense = query, keys, values = [
        tokens.transpose(0, 1)[None].contiguous()
        for tokens in (problem.q, problem.ring_k.flatten(0, 1), problem.ring_v.flatten(0, 1))
    ]
    instead = {"dense SDPA": median_microseconds(lambda: F.scaled_dot_product_attention(*dense))}
    if flex:
        mask = BlockMask.from_kv_blocks(count[None], index[None], BLOCK_SIZE=WINDOW_TOKENS)
        compiled = torch.compile(flex_attention, dynamic=False)
        instead["FlexAttention"] = median_microseconds(lambda: compiled(query, keys, values, block_mask=mask))
        instead["twin"] = median_microseconds(lambda: block_sparse_attention_reference(*tensors), calls=1)
    setting = attention_setting("block_sparse_attention", problem.q)
    name = f"block_sparse_attention ({setting.implementation})"
    yield ceilings.compute(scene, name, lambda: block_sparse_attention(*tensors), flop, instead)


def fp8_attention_line(scene: str, problem: AttentionProblem, ceilings: Ceilings) -> Line:
    """Attention of one layer over a ring in e4m3, of the same blocks."""
    problem = in_ring(problem)
    index, count = select_blocks(problem.probability, problem.slot_valid, problem.top_k)
    # The problem's values are within 8: such a bound is as loose as a layer's weights make theirs.
    scales = AttentionScales(*[64 / LARGEST] * 3, problem.q.dtype)
    tensors = problem.q, problem.k, problem.v, problem.ring_k, problem.ring_v, index, count
    instead = {"bfloat16": median_microseconds(lambda: block_sparse_attention(*tensors))}
    flop = int(count.sum()) * 4 * WINDOW_TOKENS**2 * problem.q.shape[-1]
    arguments = *fp8_operands(problem, scales), index, count, scales
    return ceilings.compute(
        scene, "block_sparse_attention_fp8", lambda: block_sparse_attention_fp8(*arguments), flop, instead
    )


def scaled_attention_line(scene: str, problem: AttentionProblem, ceilings: Ceilings) -> Line:
    """Attention of one layer over a ring in e4m3 with scales, read as it is kept, of the same blocks."""
    problem = in_ring(problem)
    index, count = select_blocks(problem.probability, problem.slot_valid, problem.top_k)
    own = len(problem.ring_k) - 1
    seen, new = slice(own), slice(own, own + 1)
    windows = problem.windows, *problem.q.shape[1:]
    place = LayerCache(problem.ring_k, problem.ring_v, problem.q.new_zeros(own + 1, *windows))
    kept = zero_fp8_cache(place, problem.q.device)
    keep_units(place.part(seen), kept.part(seen))
    tensors = problem.q, problem.k, problem.v, problem.ring_k, problem.ring_v, index, count
    units = (x[new].flatten(0, 1) for x in (problem.ring_k, problem.ring_v))
    ring = kept.keys, kept.values, kept.key_scales, kept.value_scales
    arguments = problem.q, *units, *ring, own, index, count

    def widened() -> None:
        widen_slots(kept, range(own), place)
        block_sparse_attention(*tensors)

    ways = {"bfloat16": lambda: block_sparse_attention(*tensors), "widened": widened}
    instead = {name: median_microseconds(way) for name, way in ways.items()}
    flop = int(count.sum()) * 4 * WINDOW_TOKENS**2 * problem.q.shape[-1]
    return ceilings.compute(
        scene,
        "block_sparse_attention_scaled",
        lambda: block_sparse_attention_scaled(*arguments),
        flop,
        instead,
    )


def fused_lines(scene: str, problem: AttentionProblem, ceilings: Ceilings) -> Iterator[Line]:
    """What surrounds attention in a block, and the last step of the decoder."""
    tokens, heads, head_dim = problem.q.shape
    width = heads * head_dim
    q, k = problem.q.flatten(1), problem.k.flatten(1)
    gate, weight, bias = torch.randn(3, width, device="cuda").to(q.dtype)
    angle = torch.rand(tokens, head_dim // 2, device="cuda")
    rope = (angle.cos(), angle.sin(), EPS)
    q_out, k_out = torch.empty_like(problem.q), torch.empty_like(problem.k)

    def eager_norm_rope() -> None:
        norm_rope_reference(q, weight, *rope, q_out)
        norm_rope_reference(k, weight, *rope, k_out)

    yield ceilings.memory(
        scene,
        "norm_rope",
        lambda: norm_rope(q, k, weight, weight, *rope, q_out, k_out),
        4 * q.nbytes,
        {"torch": median_microseconds(eager_norm_rope)},
    )

    arguments = (q, k, gate, weight, bias, EPS)

    def eager_add_norm() -> torch.Tensor:
        return F.layer_norm(torch.addcmul(q, gate, k), (width,), weight, bias, EPS)

    yield ceilings.memory(
        scene,
        "add_norm",
        lambda: add_norm(*arguments),
        4 * q.nbytes,
        {
            "torch, two kernels": median_microseconds(eager_add_norm),
            "twin": median_microseconds(lambda: add_norm_reference(*arguments)),
        },
    )

    pixels = tokens * 128
    frames, reference = torch.randn(2, UNIT_FRAMES, 3, 128, pixels // 128, device="cuda").bfloat16()
    yield ceilings.memory(
        scene,
        "finish_frames",
        lambda: finish_frames(frames, reference),
        3 * frames.nbytes + frames.numel(),
        {"torch": median_microseconds(lambda: finish_frames_reference(frames, reference))},
    )


def fp8_lines(scene: str, problem: AttentionProblem, ceilings: Ceilings) -> Iterator[Line]:
    """The DiT's products in FP8, and what writes their operands; instead of them bfloat16's."""
    tokens, heads, head_dim = problem.q.shape
    dim, inner = heads * head_dim, find_preset(DEFAULT_PRESET).network.dit.ffn_dim
    shapes = {"q, k": (dim, 2 * dim), "v, o": (dim, dim), "ffn.0": (dim, inner), "ffn.2": (inner, dim)}
    for name, (inputs, outputs) in shapes.items():
        x = torch.randn(tokens, inputs, device="cuda").bfloat16()
        weight = torch.randn(outputs, inputs, device="cuda").bfloat16()
        bias = torch.randn(outputs, device="cuda").bfloat16()
        operand, quantised = quantise_rows(x), quantise_rows(weight)
        instead = {"bfloat16": median_microseconds(partial(F.linear, x, weight, bias))}
        if name == "ffn.0":
            instead["bfloat16 with GELU"] = median_microseconds(partial(linear_gelu, x, weight, bias))
        flop = 2 * tokens * inputs * outputs
        call = partial(fp8_product, operand, quantised, bias)
        yield ceilings.compute(scene, f"fp8_product, {name}", call, flop, instead)
        if name in ("v, o", "ffn.2"):
            size = x.nbytes * 3 // 2
            yield ceilings.memory(scene, f"quantise_rows, {inputs}", partial(quantise_rows, x), size, {})
            yield ceilings.memory(
                scene, f"quantise_rows of GELU, {inputs}", partial(quantise_rows, x, gelu=True), size, {}
            )


def measure(scenes: list[str], flex_scenes: list[str]) -> dict:
    """Every line of the given scenes, with the device and its ceilings."""
    device = require_gpu()
    ceilings = Ceilings(matmul_ceiling(), copy_ceiling())
    lines = []
    for scene in scenes:
        problem = attention_problem(*SCENES[scene])
        lines += attention_lines(scene, problem, ceilings, flex=scene in flex_scenes)
        lines.append(scaled_attention_line(scene, problem, ceilings))
        lines += fused_lines(scene, problem, ceilings)
        if torch.cuda.get_device_capability() >= (8, 9):
            lines += fp8_lines(scene, problem, ceilings)
            lines.append(fp8_attention_line(scene, problem, ceilings))
        del problem
        torch.cuda.empty_cache()
    return {
        "device": device,
        "torch": torch.__version__,
        "ceilings": asdict(ceilings),
        "lines": [asdict(line) for line in lines],
    }


def table(report: dict) -> str:
    """The report as a Markdown table."""
    rows = [
        "| LR frame | kernel | us | rate | of ceiling | instead, us |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for line in report["lines"]:
        instead = ", ".join(f"{name} {time:.0f}" for name, time in line["instead"].items())
        rows.append(
            f"| {line['scene']} | {line['kernel']} | {line['microseconds']:.1f} "
            f"| {line['rate']:.0f} {line['unit']} | {line['share']:.0%} | {instead} |"
        )
    ceilings = report["ceilings"]
    head = (
        f"{report['device']}, torch {report['torch']}; measured ceilings: "
        f"{ceilings['tflops']:.0f} TFLOP/s (bf16 matrix product), {ceilings['gbytes']:.0f} GB/s (copy)."
    )
    return "\n".join([head, "", *rows])


def main() -> None:
    """Prints the table; writes JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scene", action="append", choices=SCENES, help="LR frame size; default: all")
    parser.add_argument(
        "--flex", action="append", choices=SCENES, help="also time FlexAttention and twin here"
    )
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    report = measure(options.scene or list(SCENES), options.flex or ["640x384"])
    print(table(report))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
