"""Every FP8 kernel compiles for the architectures that have FP8, and keeps all it has in registers."""

import pytest

from flashvsr_trt.kernels.catalogue import BLOCK
from flashvsr_trt.kernels.compile import PTX_VERSION
from flashvsr_trt.kernels.fp8 import LARGEST, SMALLEST
from flashvsr_trt.kernels.ptx import assemble
from flashvsr_trt.kernels.tuning import SHARED_LIMIT, capability_number, setting_for

triton = pytest.importorskip("triton", reason="compiling kernels needs Triton (extra 'kernels')")

POINTERS = {
    **dict.fromkeys(("x", "v", "out", "branch", "gate", "weight", "bias", "total"), "*bf16"),
    **dict.fromkeys(("q", "ring_k", "ring_v", "values", "normed"), "*fp8e4nv"),
    **dict.fromkeys(("index", "count"), "*i32"),
    **dict.fromkeys(("scales", "means", "key_scales", "value_scales"), "*fp32"),
}
NUMBERS = dict.fromkeys(("score_scale", "value_scale", "out_scale", "inverse", "eps"), "fp32")


def compiled(function, architecture, setting, gluon=False, types=None, **constants):
    """Its PTX's cubin, and shared memory of a program. `types` are those that differ from POINTERS."""
    from triton import knobs
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.experimental.gluon._runtime import GluonASTSource

    names, number = function.arg_names, capability_number(architecture)
    written = {"out": "*fp8e4nv"} if "inverse" in names else {}
    types = POINTERS | NUMBERS | written | (types or {})
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    aligned = [name for name in names if signature[name].startswith("*")]
    source = (GluonASTSource if gluon else ASTSource)(
        function,
        signature,
        {(names.index(name),): value for name, value in constants.items()},
        {(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    launch = {"num_warps": setting.num_warps, "num_stages": setting.num_stages}
    options = launch | {"ptx_version": PTX_VERSION, "enable_fp_fusion": True}
    made = triton.compile(source, target=GPUTarget("cuda", number, 32), options=options)
    target = f"{architecture}a" if number >= 90 else architecture
    return assemble(made.asm["ptx"], target, knobs.nvidia.ptxas.path), made.metadata.shared


@pytest.mark.parametrize("architecture", ["sm_89", "sm_90", "sm_100", "sm_120"])
def test_attention_compiles_without_spills(architecture):
    from triton.language import float8e4nv

    from flashvsr_trt.kernels import block_sparse_attention_fp8_hopper as hopper
    from flashvsr_trt.kernels import block_sparse_attention_fp8_triton as portable

    setting = setting_for("block_sparse_attention_fp8", architecture, 128)
    sizes = {"HEAD_DIM": 128, "BLOCK": BLOCK, "LOG2_LARGEST": 8, **setting.constants}
    if setting.implementation == "hopper":
        function = hopper.block_sparse_attention_fp8_hopper
    else:
        function = portable.block_sparse_attention_fp8
        sizes |= {"GROUP": 16, "MULTIPLIED": float8e4nv}
    assembled, shared = compiled(function, architecture, setting, architecture == "sm_90", **sizes)
    assert assembled.spill_bytes == 0
    assert not assembled.serialised
    assert shared <= SHARED_LIMIT[architecture]


@pytest.mark.slow
@pytest.mark.parametrize("convolution", [False, True])
def test_own_products_compile_without_spills(convolution):
    from flashvsr_trt.kernels.fp8_product_hopper import fp8_product_hopper
    from flashvsr_trt.kernels.fp8_products import DEPTH, box_of

    setting = setting_for("fp8_convolution" if convolution else "fp8_gelu_product", "sm_90")
    height, width = box_of(setting.constants["ROWS"], 88, 160) if convolution else (1, 1)
    sizes = setting.constants | {"DEPTH": DEPTH, "BOX_HEIGHT": height, "BOX_WIDTH": width}
    types = {"weight": "*fp8e4nv", "x": "*fp8e4nv", "row_scale": "*fp32", "column_scale": "*fp32"}
    types["out"] = "*bf16" if convolution else "*fp8e4nv"
    assembled, shared = compiled(
        fp8_product_hopper, "sm_90", setting, True, types, CONVOLUTION=convolution, **sizes
    )
    assert assembled.spill_bytes == 0
    assert not assembled.serialised
    assert shared <= SHARED_LIMIT["sm_90"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_what_quantises_and_widens_a_ring_compiles_without_spills(architecture):
    from flashvsr_trt.kernels import scaled_windows

    size, limit = {"HEAD_DIM": 128, "BLOCK": BLOCK}, {"LEAST_EXPONENT": scaled_windows.LEAST_EXPONENT}
    for name, constants in (("widen_windows", {}), ("quantise_windows", limit)):
        function, setting = getattr(scaled_windows, f"{name}_kernel"), setting_for(name, architecture)
        types = {"x": "*bf16", "kept": "*i8"}
        assembled, _ = compiled(function, architecture, setting, types=types, **size, **constants)
        assert assembled.spill_bytes == 0


@pytest.mark.parametrize("architecture", ["sm_89", "sm_90", "sm_120"])
def test_what_writes_operands_compiles_without_spills(architecture):
    from flashvsr_trt.kernels.add_norm import add_norm_kernel
    from flashvsr_trt.kernels.block_sparse_attention_fp8 import store_values_kernel
    from flashvsr_trt.kernels.fp8 import quantise_rows_kernel

    e4m3 = {"LARGEST": LARGEST, "SMALLEST": SMALLEST}
    rows = {"WIDTH": 8960, "PADDED": 16384, "ROWS": 1, "GELU": True, **e4m3}
    norm = {"WIDTH": 1536, "PADDED": 2048, "HAS_GATE": True, "QUANTISED": True, **e4m3}
    for function, name, constants in (
        (quantise_rows_kernel, "quantise_rows", rows),
        (add_norm_kernel, "add_norm", norm),
        (store_values_kernel, "store_values", {"HEAD_DIM": 128, "BLOCK": BLOCK, "GROUP": 16}),
    ):
        setting = setting_for(name, architecture)
        if name == "add_norm":
            constants = constants | setting.constants
        assembled, _ = compiled(function, architecture, setting, **constants)
        assert assembled.spill_bytes == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [("sm_80", "bf16"), ("sm_86", "fp16"), ("sm_89", "bf16"), ("sm_90", "bf16"), ("sm_120", "bf16")],
)
def test_attention_over_a_ring_with_scales_compiles_without_spills(architecture, dtype):
    from triton import language

    from flashvsr_trt.kernels.block_sparse_attention_scaled_triton import block_sparse_attention_scaled

    setting = setting_for("block_sparse_attention_scaled", architecture, 128)
    types = dict.fromkeys(("q", "k", "v", "out"), f"*{dtype}") | dict.fromkeys(("ring_k", "ring_v"), "*i8")
    sizes = {"HEAD_DIM": 128, "BLOCK": BLOCK, "SCALE": 0.125, **setting.constants}
    multiplied = {"bf16": language.bfloat16, "fp16": language.float16}[dtype]
    assembled, shared = compiled(
        block_sparse_attention_scaled, architecture, setting, types=types, MULTIPLIED=multiplied, **sizes
    )
    assert assembled.spill_bytes == 0
    assert shared <= SHARED_LIMIT[architecture]
