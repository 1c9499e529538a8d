"""The TC decoder against the official one."""

import pytest
import torch
from torch import nn

from flashvsr_trt.config.presets import AttentionConfig
from flashvsr_trt.model.communicator import ONE_PROCESS
from flashvsr_trt.model.decoder import WARM_UP_FRAMES, MemBlock, TGrow
from flashvsr_trt.model.exported_decoder import exported_decoder
from flashvsr_trt.model.fused_decoder import FusedDecoder, Grow
from tests.golden import assert_close_to_max, golden_preset, load_case
from training.published import PublishedDecoder

CASE = "tcdecoder_32x32"
MEM_BLOCKS = (5, 6, 7, 11, 12, 13, 17, 18, 19)


@pytest.fixture
def decoder() -> PublishedDecoder:
    module = PublishedDecoder(golden_preset(AttentionConfig(sparse_ratio=None)).network)
    module.load_state_dict(load_case(CASE).under("weights."))
    return module.eval().requires_grad_(False)


def test_the_memory_of_every_mem_block_is_carried(decoder):
    indices = [i for i, layer in enumerate(decoder.decoder) if isinstance(layer, MemBlock)]
    assert tuple(indices) == MEM_BLOCKS


FORMS = {
    "published": lambda decoder: decoder,
    "exported": lambda decoder: exported_decoder(FusedDecoder(decoder, torch.float32)),
    "fused": lambda decoder: FusedDecoder(decoder, torch.float32),
    "fused, frame by frame": lambda decoder: FusedDecoder(decoder, torch.float32, alone_pixels=1),
    "fused, in bands of rows": lambda decoder: FusedDecoder(decoder, torch.float32, 1, band_pixels=200),
    "fused, the last group frame by frame": lambda decoder: FusedDecoder(decoder, torch.float32, 16 * 16),
}


@pytest.mark.parametrize("form", FORMS)
def test_three_calls_give_the_official_frames_and_memory(decoder, form):
    case = load_case(CASE)
    decoder = FORMS[form](decoder)
    memory = [torch.zeros_like(case[f"mem.0.{block}"]) for block in MEM_BLOCKS]
    for call in range(3):
        condition = case[f"cond.{call}"][0].transpose(0, 1)
        if call == 0:
            condition = torch.cat([condition[:1].expand(WARM_UP_FRAMES, -1, -1, -1), condition])
        frames, memory = decoder(case[f"latent.{call}"][0], condition, memory)
        if call == 0:
            frames = frames[WARM_UP_FRAMES:]
        assert_close_to_max(frames[None], case[f"frames.{call}"])
        for block, carried in zip(MEM_BLOCKS, memory, strict=True):
            assert_close_to_max(carried, case[f"mem.{call}.{block}"])


@pytest.mark.parametrize("band_pixels", [1, 320, 448, 10**6])
def test_bands_of_rows_make_the_same_bits(decoder, band_pixels):
    torch.manual_seed(0)
    latent, condition = torch.randn(2, 16, 7, 5), torch.rand(8, 3, 56, 40) * 2 - 1
    channels = [load_case(CASE)[f"mem.0.{block}"].shape[1] for block in MEM_BLOCKS]
    memory = [torch.randn(1, c, 7 * 2 ** (n // 3), 5 * 2 ** (n // 3)) for n, c in enumerate(channels)]
    whole = FusedDecoder(decoder, torch.float32, 1)
    banded = FusedDecoder(decoder, torch.float32, 1, band_pixels)
    frames, carried = whole(latent, condition, memory)
    in_bands, carried_in_bands = banded(latent, condition, memory)
    assert torch.equal(in_bands, frames)
    assert all(map(torch.equal, carried, carried_in_bands))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (8, 4)])
def test_the_folded_kernel_equals_upsampling_growing_and_convolving(stride, size):
    torch.manual_seed(0)
    tgrow, conv = TGrow(6, stride), nn.Conv2d(6, 5, 3, padding=1, bias=False)
    x = torch.randn(2, 6, *size)
    expected = conv(tgrow(nn.Upsample(scale_factor=2)(x)))
    torch.testing.assert_close(torch.cat([*Grow(tgrow, conv, torch.float32)(x, ONE_PROCESS)]), expected)


@pytest.mark.parametrize("form", list(FORMS)[1:])
@pytest.mark.parametrize("frames", [1, 2, 4])
def test_each_form_of_the_decoder_equals_the_published_one(decoder, frames, form):
    torch.manual_seed(0)
    latent, condition = torch.randn(frames, 16, 6, 4), torch.rand(frames * 4, 3, 48, 32) * 2 - 1
    shapes = [load_case(CASE)[f"mem.0.{block}"].shape[1] for block in MEM_BLOCKS]
    sizes = [(6, 4)] * 3 + [(12, 8)] * 3 + [(24, 16)] * 3
    memory = [torch.randn(1, c, *size) for c, size in zip(shapes, sizes, strict=True)]
    expected = decoder(latent, condition, memory)
    actual = FORMS[form](decoder)(latent, condition, memory)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
