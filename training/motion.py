"""A clip from a picture: a camera that pans, turns and zooms smoothly over it."""

import math

import torch
import torch.nn.functional as F

SUPERSAMPLING = 2
"""Samples per pixel, each way: averaged, they are sharp and free of aliases up to 2 picture pixels each."""

MARGIN = 2.3
"""Side of the picture's part that a clip is sampled from, in clip sides."""


def picture_part(picture: torch.Tensor, side: int, generator: torch.Generator) -> torch.Tensor:
    """A random square of uint8 [3, H, W], flipped and turned at random: float32 [3, side, side] in 0..1.

    A picture smaller than that is reflected at its edges.
    """
    height, width = picture.shape[1:]
    top, left = (_integer(generator, max(size - side, 0) + 1) for size in (height, width))
    part = picture[:, top : top + side, left : left + side].float() / 255
    missing = side - part.shape[1], side - part.shape[2]
    while any(size > 0 for size in missing):
        # Reflection can add no more than there is.
        below, beside = (
            max(0, min(gap, size - 1)) for gap, size in zip(missing, part.shape[1:], strict=True)
        )
        part = F.pad(part[None], (0, beside, 0, below), mode="reflect")[0]
        missing = side - part.shape[1], side - part.shape[2]
    part = torch.rot90(part, _integer(generator, 4), (1, 2))
    return part.flip(2) if _integer(generator, 2) else part


def camera_path(frames: int, generator: torch.Generator) -> torch.Tensor:
    """[frames, 2, 3] affine maps from clip to part coordinates, both -1..1; one in eight stands still."""
    time = torch.arange(frames, dtype=torch.float32) - (frames - 1) / 2
    still = _integer(generator, 8) == 0
    uniform = torch.rand(9, generator=generator) * 2 - 1
    moving = 0.0 if still else 1.0
    # 1 to 2 picture pixels per clip pixel, so that what is shown is as sharp as pixels can be.
    scale = (1.45 + 0.35 * uniform[0]) * torch.exp(moving * 0.004 * uniform[1] * time)
    angle = 0.15 * uniform[2] + moving * 0.006 * uniform[3] * time
    sway = torch.sin(time * (0.15 + 0.1 * uniform[8]))
    room = 1 - 1.6 / MARGIN
    path = []
    for drift, amplitude in ((uniform[4], uniform[5]), (uniform[6], uniform[7])):
        path.append(moving * room * (drift * time / frames * 1.6 + 0.15 * amplitude * sway))
    zoom = scale / MARGIN
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    rows = [torch.stack([cos, -sin, path[0]], dim=-1), torch.stack([sin, cos, path[1]], dim=-1)]
    return torch.stack(rows, dim=-2)


def film(parts: torch.Tensor, paths: torch.Tensor, side: int) -> torch.Tensor:
    """Sample parts [clips, 3, S, S] along paths [clips, T, 2, 3]: [clips, T, 3, side, side] in 0..1."""
    clips, frames = paths.shape[:2]
    fine = side * SUPERSAMPLING
    grid = F.affine_grid(paths.flatten(0, 1), [clips * frames, 3, fine, fine], align_corners=False)
    # All frames of a clip in one tall grid: its picture is not copied for each.
    tall = grid.view(clips, frames * fine, fine, 2)
    sampled = F.grid_sample(parts, tall, mode="bilinear", padding_mode="reflection", align_corners=False)
    averaged = F.avg_pool2d(sampled, SUPERSAMPLING)
    return averaged.unflatten(2, (frames, side)).transpose(1, 2)


def part_side(side: int) -> int:
    """Side of the picture part that a clip of this side needs."""
    return math.ceil(side * MARGIN)


def _integer(generator: torch.Generator, below: int) -> int:
    return int(torch.randint(below, (), generator=generator))
