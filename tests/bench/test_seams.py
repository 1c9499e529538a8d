"""The seam detector finds a step that was planted on a tile's border, and none where there is none."""

import numpy as np
import pytest

from bench.seams import seam_sigmas, tile_borders

STARTS, TILE = (0, 160, 320), 256
LINES = tile_borders(STARTS, TILE)


def structured(frames: int = 4) -> np.ndarray:
    """Waves, edges and a little noise that move: uint8 [frames, 320, 576, 3]."""
    generator = np.random.default_rng(3)
    rows, columns = np.mgrid[:320, :576]
    made = []
    for frame in range(frames):
        wave = 60 * np.sin((rows + 2 * frame) / 17) * np.cos(columns / 23)
        edges = 40 * ((rows // 37 + (columns + frame) // 47) % 2)
        made.append(110 + wave + edges + generator.normal(0, 2, rows.shape))
    return np.repeat(np.clip(made, 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def test_borders_are_where_tiles_begin_and_end():
    assert LINES == [160, 256, 320, 416]


@pytest.mark.parametrize("axis", [0, 1])
def test_a_clip_without_seams_has_none(axis):
    sigmas = seam_sigmas(structured(), (100, 160, 256), axis)
    assert max(sigmas.values()) < 3


@pytest.mark.parametrize("line", LINES)
@pytest.mark.parametrize("step", [2, -2])
def test_a_planted_step_of_two_levels_is_found_where_it_is(line, step):
    frames = structured().astype(int)
    frames[:, :, line:] += step
    sigmas = seam_sigmas(np.clip(frames, 0, 255).astype(np.uint8), LINES, axis=1)
    assert sigmas.pop(line) > 3
    assert max(sigmas.values()) < 3
