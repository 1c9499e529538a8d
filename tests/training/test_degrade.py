"""Degradations keep shapes and ranges, and lose what they are named for."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.degrade import (
    CLEAN,
    TYPICAL,
    Damage,
    compress_video,
    dct_basis,
    degrade,
    draw_damage,
    jpeg,
    make_smaller,
    to_bytes,
)


def drawn_clip(height: int = 32, width: int = 48) -> torch.Tensor:
    return torch.rand(1, 3, 3, height, width, generator=torch.Generator().manual_seed(0))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_any_damage_gives_bytes_of_the_same_shape(seed):
    damage = draw_damage(torch.Generator().manual_seed(seed))
    given_clips = degrade(drawn_clip(), [damage], torch.Generator().manual_seed(seed))
    assert given_clips.dtype == torch.uint8
    assert given_clips.shape == (1, 3, 32, 48, 3)


def test_a_clean_clip_is_only_rounded():
    clip = drawn_clip()
    assert torch.equal(degrade(clip, [CLEAN], torch.Generator()), to_bytes(clip))


def test_some_clips_are_clean_and_most_are_not():
    generator = torch.Generator().manual_seed(0)
    share = sum(draw_damage(generator) == CLEAN for _ in range(1000)) / 1000
    assert abs(share - 0.25) < 0.05


def test_noise_is_a_function_of_its_generator():
    made = [degrade(drawn_clip(), [TYPICAL], torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*made)


def test_jpeg_loses_more_at_lower_quality_and_little_at_the_highest():
    smooth = make_smaller(drawn_clip(64, 96), 2)[0]
    errors = [(jpeg(smooth, quality) - smooth).abs().mean().item() for quality in (100, 80, 40)]
    assert errors[0] < errors[1] < errors[2]


def test_the_dct_is_orthonormal():
    assert torch.allclose(dct_basis(8) @ dct_basis(8).T, torch.eye(8), atol=1e-6)


@pytest.mark.parametrize("damage", [Damage(blur=1.0), Damage(shrink=0.7)])
def test_blur_and_resizing_take_contrast_from_noise(damage):
    clip = drawn_clip()
    made = degrade(clip, [damage], torch.Generator())
    assert made.float().std() < 0.8 * to_bytes(clip).float().std()


def test_a_codec_keeps_frames_and_sizes():
    frames = to_bytes(drawn_clip())[0].numpy()
    made = compress_video(frames, bits_per_pixel=0.2)
    assert made.shape == frames.shape
    assert made.dtype == np.uint8
