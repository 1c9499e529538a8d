"""The TC decoder against the official one."""

import pytest
import torch

from flashvsr_trt.model.decoder import WARM_UP_FRAMES, Decoder, MemBlock
from flashvsr_trt.presets import AttentionConfig
from tests.golden import assert_close_to_max, golden_preset, load_case

CASE = "tcdecoder_32x32"
MEM_BLOCKS = (5, 6, 7, 11, 12, 13, 17, 18, 19)


@pytest.fixture
def decoder() -> Decoder:
    module = Decoder(golden_preset(AttentionConfig(sparse_ratio=None)).network)
    module.load_state_dict(load_case(CASE).under("weights."))
    return module.eval().requires_grad_(False)


def test_the_memory_of_every_mem_block_is_carried(decoder):
    indices = [i for i, layer in enumerate(decoder.decoder) if isinstance(layer, MemBlock)]
    assert tuple(indices) == MEM_BLOCKS


def test_three_calls_give_the_official_frames_and_memory(decoder):
    case = load_case(CASE)
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
