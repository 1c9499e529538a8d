import pytest
import torch

from flashvsr_trt.kernels.add_norm import add_norm, add_norm_reference
from flashvsr_trt.kernels.finish_frames import finish_frames, finish_frames_reference
from flashvsr_trt.kernels.norm_rope import norm_rope, norm_rope_reference
from flashvsr_trt.kernels.tuning import Setting

EPS = 1e-6
TOKENS = Setting(num_warps=4, constants={"TOKENS": 4})
PARTS = Setting(num_warps=4, constants={"TOKENS": 4, "PARTS": 2})
PIXELS = Setting(num_warps=4, constants={"PIXELS": 512})


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def launch_into_ring(qkv, q_weight, k_weight, cos, sin, ring, slot, scales=(1.0, 1.0)):
    """q and k as columns of a fused projection; k goes straight into a slot of the ring."""
    q, k, _ = qkv.chunk(3, dim=1)
    q_out, ring = torch.empty_like(ring[slot]), ring.clone()
    return (
        *norm_rope(q, k, q_weight, k_weight, cos, sin, EPS, q_out, ring[slot], scales, PARTS),
        q_out,
        ring,
    )


@pytest.mark.parametrize(("heads", "head_dim"), [(2, 32), (3, 32), (3, 128)])
def test_norm_rope_writes_what_the_reference_writes(run_kernel, heads, head_dim):
    tokens, width = 256, heads * head_dim
    qkv, ring = random(tokens, 3 * width), random(3, tokens, heads, head_dim, seed=1)
    q_weight, k_weight = random(2, width, seed=2)
    angle = random(tokens, head_dim // 2, seed=3)
    cos, sin = angle.cos(), angle.sin()
    q_means, k_means, q_out, written = run_kernel(
        launch_into_ring, qkv, q_weight, k_weight, cos, sin, ring, 1
    )
    expected_q, expected_ring = torch.empty_like(ring[1]), ring.clone()
    q, k, _ = qkv.chunk(3, dim=1)
    expected_q_means = norm_rope_reference(q, q_weight, cos, sin, EPS, expected_q)
    expected_k_means = norm_rope_reference(k, k_weight, cos, sin, EPS, expected_ring[1])
    torch.testing.assert_close(q_out, expected_q, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(written, expected_ring, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(q_means, expected_q_means, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(k_means, expected_k_means, rtol=1e-5, atol=1e-5)


def test_norm_rope_divides_by_scales_and_not_its_means(run_kernel):
    tokens, width, scales = 256, 64, (0.25, 0.5)
    qkv, ring = random(tokens, 3 * width), random(3, tokens, 2, 32, seed=1)
    weights = random(2, width, seed=2)
    angle = random(tokens, 16, seed=3)
    arguments = qkv, *weights, angle.cos(), angle.sin(), ring, 1
    *means, q, kept = run_kernel(launch_into_ring, *arguments)
    *scaled_means, scaled_q, scaled_kept = run_kernel(launch_into_ring, *arguments, scales)
    assert all(map(torch.equal, means, scaled_means))
    torch.testing.assert_close(scaled_q, q / 0.25)
    torch.testing.assert_close(scaled_kept[1], kept[1] / 0.5)


def launch_add(*arguments):
    return add_norm(*arguments, False, TOKENS)


@pytest.mark.parametrize("gated", [True, False])
@pytest.mark.parametrize(("tokens", "width"), [(37, 96), (5, 128), (1, 1536)])
def test_add_norm_gives_the_references_sum_and_norm(run_kernel, tokens, width, gated):
    x, branch = random(2, tokens, width) * 3 + 5
    gate, weight, bias = random(3, width, seed=1)
    arguments = (x, branch, gate if gated else None, weight, bias, EPS)
    for got, wanted in zip(run_kernel(launch_add, *arguments), add_norm_reference(*arguments), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-5, atol=2e-5)


def launch_finish(*arguments):
    return finish_frames(*arguments, PIXELS)


@pytest.mark.parametrize("kind", ["random", "one colour", "saturated"])
@pytest.mark.parametrize(("height", "width"), [(16, 24), (70, 130)])
def test_finish_frames_gives_the_references_bytes(run_kernel, height, width, kind):
    frames, reference = random(2, 2, 3, height, width) * 0.4
    frames = frames / 2 + 0.5
    if kind == "one colour":
        frames = torch.full_like(frames, 0.25)
    elif kind == "saturated":
        reference = reference * 5
    got = run_kernel(launch_finish, frames, reference).int()
    difference = (got - finish_frames_reference(frames, reference).int()).abs()
    # A value on the edge of two bytes may fall to either: sums are taken in another order.
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3


def test_norm_rope_reference_is_rms_norm_then_rotation():
    x, weight = random(128, 64), random(64, seed=1)
    angle = random(128, 16, seed=2).double()
    out = torch.empty(128, 2, 32)
    norm_rope_reference(x, weight, angle.cos().float(), angle.sin().float(), EPS, out)
    normed = torch.nn.functional.rms_norm(x.double(), (64,), weight.double(), EPS)
    turned = (
        torch.view_as_complex(normed.view(128, 2, 16, 2))
        * torch.polar(torch.ones_like(angle), angle)[:, None]
    )
    torch.testing.assert_close(out.double(), torch.view_as_real(turned).flatten(-2), rtol=1e-5, atol=1e-5)
