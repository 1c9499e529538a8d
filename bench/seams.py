"""Seams: steps along the borders of tiles that lines beside them do not have."""

from collections.abc import Iterable, Sequence

import numpy as np

from flashvsr_trt.quality.metrics import luma

NEIGHBOURS = 16
"""Lines on each side that a line is compared with."""

SEGMENT = 16
"""Pixels along a line whose steps are taken together: a seam has one sign there, and noise has none."""

NORMAL_DEVIATION = 1.4826
"""Standard deviations in the median distance from the median of a normal distribution."""


def step_profile(frames: Sequence[np.ndarray], axis: int) -> np.ndarray:
    """How much luma steps at each line beyond its slope beside it: float64 [length - 3].

    Entry i is of the line between pixels i + 1 and i + 2: its step, less the mean of the steps before and
    after it, is averaged over the frames, where pictures move and seams stay, and over each SEGMENT of the
    line; the entry is the mean size of these.

    Args:
        frames: uint8 [H, W, 3], of one size.
        axis: 0 for lines between rows, 1 for those between columns.
    """
    steps = np.mean([np.diff(luma(frame), axis=axis) for frame in frames], axis=0)
    steps = steps if axis == 0 else steps.T
    bends = steps[1:-1] - (steps[:-2] + steps[2:]) / 2
    segments = np.array_split(bends, max(1, bends.shape[1] // SEGMENT), axis=1)
    return np.mean([np.abs(segment.mean(axis=1)) for segment in segments], axis=0)


def seam_sigmas(frames: Sequence[np.ndarray], lines: Iterable[int], axis: int) -> dict[int, float]:
    """How many standard deviations each line's step stands above those of the lines beside it.

    Args:
        frames: as `step_profile`, and `axis` too.
        lines: a line l lies between pixels l - 1 and l. Those at the very edge of the frame are left out.

    Returns:
        Line -> sigmas, in the size of a normal distribution's. Over 3 is a seam.
    """
    profile = step_profile(frames, axis)
    sigmas = {}
    for line in lines:
        place = line - 2
        if not 2 <= place < len(profile) - 2:
            continue
        # The lines next to it have half of its step themselves.
        beside = range(max(0, place - NEIGHBOURS), min(len(profile), place + NEIGHBOURS + 1))
        others = profile[[other for other in beside if abs(other - place) > 1]]
        middle = np.median(others)
        spread = np.median(np.abs(others - middle)) * NORMAL_DEVIATION
        sigmas[line] = float((profile[place] - middle) / max(spread, np.finfo(float).tiny))
    return sigmas


def tile_borders(starts: Sequence[int], tile: int) -> list[int]:
    """The lines along one axis where a tile begins or ends within the frame."""
    return sorted({*starts[1:], *(start + tile for start in starts[:-1])})
