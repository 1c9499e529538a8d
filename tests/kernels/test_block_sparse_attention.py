import pytest
import torch

from flashvsr_trt.kernels.attention_launch import attention_setting, attention_strides, launch_attention
from flashvsr_trt.kernels.block_sparse_attention import block_sparse_attention_reference
from flashvsr_trt.kernels.select_blocks import compact_mask

HEADS = 2
BLOCK = 128
# Against float64; the bf16 and fp16 results are themselves rounded, by at most half a unit in the last place.
TOLERANCE = {
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.float16: {"rtol": 2**-11, "atol": 2e-3},
    torch.bfloat16: {"rtol": 2**-8, "atol": 2e-3},
}


def launch(*arguments):
    return launch_attention(arguments, attention_setting("block_sparse_attention", arguments[0]))


def arguments(dtype, head_dim, windows=2, slots=3, units=1, mask=None, seed=0, own=True):
    """With `own` k and v hold the step's own windows, else these are in the ring."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(*shape):
        return torch.randn(*shape, HEADS, head_dim, generator=generator).to(dtype)

    q, k, v = (tokens(units * windows * BLOCK) for _ in range(3))
    ring_k, ring_v = (tokens(slots, windows * BLOCK) for _ in range(2))
    if mask is None:
        key_windows = (slots + units * own) * windows
        mask = torch.rand(HEADS, units * windows, key_windows, generator=generator) < 0.5
    if not own:
        k, v = k[:0], v[:0]
    return q, k, v, ring_k, ring_v, *compact_mask(mask)


def in_float64(arguments):
    return [x.double() if x.is_floating_point() else x for x in arguments]


def assert_matches_reference(run_kernel, arguments):
    got = run_kernel(launch, *arguments)
    wanted = block_sparse_attention_reference(*in_float64(arguments))
    torch.testing.assert_close(got.double(), wanted, **TOLERANCE[got.dtype])


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("units", [1, 2])
@pytest.mark.parametrize("head_dim", [32, 128])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_random_blocks(run_kernel, dtype, head_dim, units, own):
    assert_matches_reference(run_kernel, arguments(dtype, head_dim, units=units, own=own))


@pytest.mark.parametrize("listed", ["none", "all", "one in the ring", "one of the chunk", "some rows empty"])
def test_hard_masks(run_kernel, listed):
    mask = torch.zeros(HEADS, 2, 8, dtype=torch.bool)
    match listed:
        case "all":
            mask[:] = True
        case "one in the ring":
            mask[..., 5] = True
        case "one of the chunk":
            mask[..., 7] = True
        case "some rows empty":
            mask[0, 1] = True
    given = arguments(torch.float32, 32, mask=mask)
    assert_matches_reference(run_kernel, given)


def test_rows_that_list_nothing_are_zero(run_kernel):
    mask = torch.zeros(HEADS, 2, 8, dtype=torch.bool)
    assert not run_kernel(launch, *arguments(torch.float32, 32, mask=mask)).any()


def test_large_scores_do_not_overflow(run_kernel):
    q, *rest = arguments(torch.float32, 32)
    got = run_kernel(launch, q * 300, *rest)
    wanted = block_sparse_attention_reference(*in_float64((q * 300, *rest)))
    # Scores of a few thousand leave float32 three decimals.
    torch.testing.assert_close(got.double(), wanted, rtol=0, atol=2e-3)


def test_no_ring_at_all(run_kernel):
    assert_matches_reference(run_kernel, arguments(torch.float32, 32, slots=0))


def launch_on_views(qkv, rings, index, count):
    """Queries, keys and values as the columns of one fused projection, and rings inside a longer one."""
    return launch(*qkv.unbind(1), *rings[:, 1:3].unbind(0), index, count)


def test_strided_views_are_read_in_place(run_kernel):
    generator = torch.Generator().manual_seed(1)
    qkv = torch.randn(2 * BLOCK, 3, HEADS, 32, generator=generator)
    rings = torch.randn(2, 4, 2 * BLOCK, HEADS, 32, generator=generator)
    index, count = compact_mask(torch.rand(HEADS, 2, 6, generator=generator) < 0.6)
    got = run_kernel(launch_on_views, qkv, rings, index, count)
    given = (*qkv.unbind(1), *rings[:, 1:3].unbind(0), index, count)
    wanted = block_sparse_attention_reference(*in_float64(given))
    torch.testing.assert_close(got.double(), wanted, **TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": lambda x: x[..., :16]}, "head_dim 16 has no attention kernel"),
        ({"k": lambda x: x.double()}, "k is torch.float64"),
        ({"v": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2)}, "adjacent"),
        ({"q": lambda x: x[:100]}, "no multiple of 128"),
        ({"ring_k": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1)}, "follow each other"),
        ({"k": lambda x: x[:BLOCK]}, r"q's tokens or none, .* \(256,\), \(128,\), \(256,\)"),
        ({"v": lambda x: x[:0]}, "k and v have q's tokens or none"),
        ({"ring_v": lambda x: x[:1]}, "both rings as many"),
        ({"index": lambda x: x.long()}, "index must be contiguous torch.int32"),
        ({"count": lambda x: x[:, :1]}, "count must be contiguous torch.int32"),
    ],
)
def test_arguments_that_no_kernel_can_read_are_refused(change, message):
    names = ("q", "k", "v", "ring_k", "ring_v", "index", "count")
    given = dict(zip(names, arguments(torch.float32, 32), strict=True))
    ((name, damage),) = change.items()
    given[name] = damage(given[name])
    with pytest.raises(ValueError, match=message):
        attention_strides(**given)
