import pytest

from flashvsr_trt.kernels.tuning import ARCHITECTURES, capability_number, frame_by_frame, setting_for


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "kernel",
    [
        "select_blocks",
        "norm_rope",
        "add_norm",
        "finish_frames",
        "norm_silu",
        "split_frames",
        "conv_to_rgb",
        "quantise_rows",
        "fp8_gelu_product",
        "fp8_convolution",
        "quantise_windows",
        "widen_windows",
    ],
)
def test_every_kernel_has_a_setting_for_every_architecture(kernel, architecture):
    assert setting_for(kernel, architecture).num_warps > 0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("head_dim", [32, 128])
def test_attention_has_a_setting_for_every_architecture_and_head_dim(architecture, head_dim):
    setting = setting_for("block_sparse_attention", architecture, head_dim)
    assert setting.implementation == ("hopper" if (architecture, head_dim) == ("sm_90", 128) else "portable")


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "sm_103", "sm_121"])
def test_no_other_architecture_is_given_a_kernel_of_hoppers(architecture):
    operators = [("fp8_gelu_product", None), ("fp8_convolution", None)]
    operators += [(f"block_sparse_attention{kind}", 128) for kind in ("", "_fp8", "_scaled")]
    for kernel, head_dim in operators:
        if kernel == "block_sparse_attention_fp8" and capability_number(architecture) < 89:
            continue
        hopper = setting_for(kernel, architecture, head_dim).implementation == "hopper"
        assert not hopper or architecture == "sm_90"


def test_an_architecture_between_two_takes_the_lower():
    assert setting_for("block_sparse_attention", "sm_87", 128) == setting_for(
        "block_sparse_attention", "sm_86", 128
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("attention", "sm_90"), "no tuning for kernel 'attention'"),
        (("block_sparse_attention", "sm_90", 64), "head_dim 64"),
        (("select_blocks", "sm_70"), "sm_70 is below"),
        (("select_blocks", "90"), "'90' is not an architecture"),
    ],
)
def test_what_the_table_does_not_hold_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        setting_for(*arguments)


def test_sizes_that_are_convolved_frame_by_frame_are_of_one_architecture():
    assert frame_by_frame("sm_90", (2, 8192, 50, 82))
    assert not frame_by_frame("sm_90", (2, 8192, 50, 90))
    assert not frame_by_frame("sm_89", (2, 8192, 50, 82))
