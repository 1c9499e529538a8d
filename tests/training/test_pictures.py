"""Which pictures are trained on, and the clips made of them."""

import pytest
import torch

from training.fetch import CHOICE
from training.motion import camera_path, film, picture_part
from training.pictures import HELD_OUT, TRAIN, PictureSource, read_manifest, split_of, write_manifest
from training.procedural import procedural_picture


def test_a_picture_is_in_one_split_whatever_its_folder_and_the_other_pictures():
    names = [f"picture{number}.jpg" for number in range(200)]
    splits = [split_of("package", name) for name in names]
    assert splits == [split_of("package", f"usr/share/{name}") for name in names]
    assert 0.1 < splits.count(HELD_OUT) / len(names) < 0.3
    assert set(splits) == {TRAIN, HELD_OUT}


def test_no_picture_is_chosen_twice():
    for patterns in CHOICE.values():
        names = [pattern for pattern, _ in patterns]
        assert len(names) == len(set(names))


def test_the_manifest_comes_back(tmp_path):
    sources = [PictureSource("a.jpg", "package", "1.0", "usr/ä.jpg", "GPL-2+", TRAIN)]
    write_manifest(tmp_path, sources)
    assert read_manifest(tmp_path) == sources


def test_drawn_pictures_are_functions_of_their_seed():
    first, again, other = (procedural_picture(seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("size", [(40, 90), (300, 200)])
def test_a_part_of_any_picture_fills_its_square(size):
    picture = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    part = picture_part(picture, 128, torch.Generator().manual_seed(1))
    assert part.shape == (3, 128, 128)
    assert part.min() >= 0
    assert part.max() <= 1


def test_a_film_of_one_colour_is_that_colour():
    paths = camera_path(5, torch.Generator().manual_seed(2))[None]
    clip = film(torch.full((1, 3, 64, 64), 0.25), paths, 32)
    assert clip.shape == (1, 5, 3, 32, 32)
    assert torch.allclose(clip, torch.tensor(0.25))


def test_neighbouring_frames_differ_a_little():
    picture = torch.from_numpy(procedural_picture(0)[:160, :160].copy()).permute(2, 0, 1)[None] / 255
    paths = torch.stack([camera_path(9, torch.Generator().manual_seed(seed)) for seed in range(4)])
    clips = film(picture.expand(4, -1, -1, -1), paths, 64)
    steps = (clips[:, 1:] - clips[:, :-1]).abs().mean(dim=(1, 2, 3, 4))
    assert steps.max() > 0
    assert steps.max() < 0.1
