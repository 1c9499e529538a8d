"""Which of torch's kernels dense attention runs by: never one that writes the scores of all tokens."""

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from flashvsr_trt.model import attention
from flashvsr_trt.model.attention import DenseAttention, LayerCache, StepCache, fused_attention, heads_first


@pytest.mark.parametrize(
    ("dtype", "mask", "fused"),
    [
        (torch.bfloat16, None, True),
        (torch.float16, None, True),
        (torch.float32, None, False),
        (torch.bfloat16, torch.ones(1, dtype=torch.bool), False),
    ],
)
def test_16_bits_without_a_mask_are_left_no_other_kernel(monkeypatch, dtype, mask, fused):
    monkeypatch.setattr(attention, "runs_kernel", lambda tensor: True)
    with fused_attention(torch.empty(1, dtype=dtype), mask):
        others = torch.backends.cuda.math_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()
        assert others == (not fused, not fused)
        assert torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.math_sdp_enabled()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("heads", [12, 5])
def test_a_gpu_runs_cudnn_or_flash(dtype, heads):
    tokens, head_dim = 1024, 128
    ring = LayerCache(
        *(torch.randn(4, tokens, heads, head_dim, device="cuda", dtype=dtype) for _ in range(2)),
        torch.zeros(4, tokens // 128, heads, head_dim, device="cuda"),
    )
    q = torch.randn(tokens, heads, head_dim, device="cuda", dtype=dtype)
    means = torch.zeros(tokens // 128, heads, head_dim, device="cuda")
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        made = DenseAttention().attend(q, means, StepCache(ring, ring, ring.part(slice(0))), None)
        torch.cuda.synchronize()
    kernels = [entry.key.lower() for entry in recorded.key_averages() if entry.device_type == DeviceType.CUDA]
    assert [name for name in kernels if "flash" in name or "sdpa" in name], kernels
    assert not [name for name in kernels if "softmax" in name or "gemm" in name], kernels
    parts = (q.transpose(0, 1), heads_first(ring.keys), heads_first(ring.values))
    expected = F.scaled_dot_product_attention(*(x.float()[None] for x in parts))[0].transpose(0, 1)
    torch.testing.assert_close(made.float(), expected, rtol=0, atol=5e-3)
