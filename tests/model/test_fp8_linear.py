"""FP8 layers of the DiT against what they take the place of."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from flashvsr_trt.kernels.fp8 import quantise_rows, quantise_rows_reference
from flashvsr_trt.model.fp8_linear import Fp8Linear, Fp8LinearGelu, attention_scales
from flashvsr_trt.model.running_dit import PromptAttention


@torch.no_grad()
def test_what_is_subtracted_from_every_token_is_not_rounded():
    linear, x, shared = nn.Linear(96, 48), torch.randn(37, 96), 1000 * torch.randn(96)
    wanted = linear.double()(x.double() + shared.double())
    linear.float()
    got = Fp8Linear(linear, shared)(quantise_rows_reference(x))
    assert (got - wanted).norm() < 0.06 * (linear(x) - linear.bias).norm()


@torch.no_grad()
@pytest.mark.parametrize("common", [0, 100])
def test_what_the_prompt_gives_all_tokens_is_not_rounded(common):
    heads, head_dim, eps = 3, 32, 1e-6
    dim = heads * head_dim
    torch.manual_seed(0)
    keys, values = torch.randn(2, heads, 8, head_dim)
    values += common * torch.randn(heads, 1, head_dim)
    cross = SimpleNamespace(q=nn.Linear(dim, dim), o=nn.Linear(dim, dim), norm_q=nn.RMSNorm(dim, eps))
    layer = PromptAttention(
        SimpleNamespace(cross_attn=cross, eps=eps), SimpleNamespace(cross_k=keys, cross_v=values)
    )
    h, linear = torch.randn(128, dim), layer.o
    wanted = layer(h)
    layer.quantise_output()
    differing = (wanted - linear(values.mean(dim=1).flatten())).norm()
    assert 1e-3 < (layer(h) - wanted).norm() / differing < 0.06
    layer.o = linear
    assert layer(h).equal(wanted)


def test_a_layer_of_zeros_makes_zeros_and_has_scales():
    layer, ones, zeros = nn.Linear(128, 256), torch.ones(128), torch.zeros(128)
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    made = Fp8LinearGelu(layer, ones, zeros).gelu(quantise_rows(torch.randn(4, 128)))
    assert made.wide().count_nonzero() == 0
    scales = attention_scales(zeros, zeros, layer, ones, zeros)
    assert all(0 < 1 / scale < float("inf") for scale in scales[:3])
