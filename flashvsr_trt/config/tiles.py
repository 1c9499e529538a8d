"""Spatial tiles: which parts of the upscaled frame run by themselves, and how their results are blended.

A tile is a stream of its own whose frames are cut from the upscaled ones: its geometry has scale 1, so tiles
of one size serve every frame and every scale. Arithmetic only.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from flashvsr_trt.config.geometry import Geometry, nearest_size
from flashvsr_trt.config.presets import LATENT_STRIDE, SIZE_MULTIPLE, TOKEN_STRIDE
from flashvsr_trt.config.signatures import UPSAMPLERS, StreamConfig
from flashvsr_trt.errors import UsageError

OVERLAP = 64
"""Pixels, at least, that neighbouring tiles share: raised cosines fade one into the other there."""

LEAST_SIDE = 2 * SIZE_MULTIPLE
"""Of a tile. One of 128 could be all overlap, and its attention would see a single window."""


@dataclass(frozen=True)
class Tile:
    """Where a tile lies in the canvas, in pixels. Its corner is a multiple of a token's side."""

    top: int
    left: int
    height: int
    width: int

    @property
    def pixels(self) -> tuple[slice, slice]:
        """Its rows and columns of the canvas."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    @property
    def latent(self) -> tuple[slice, slice]:
        """Its rows and columns of the canvas's latent grid."""
        rows, columns = (slice(p.start // LATENT_STRIDE, p.stop // LATENT_STRIDE) for p in self.pixels)
        return rows, columns


@dataclass(frozen=True)
class TilePlan:
    """The tiles of a frame, row by row, all of one size, with overlaps of OVERLAP pixels and more.

    Args:
        geometry: of the whole frame.
        tile: height and width of a tile, multiples of 128.

    Raises:
        UsageError: a tile of another size, or too small a one.
    """

    geometry: Geometry
    tile: tuple[int, int]

    def __post_init__(self) -> None:
        check_tile(self.tile)

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width of what the tiles cover: whole tokens of the frame, and at least one tile."""
        height, width = (-(-side // TOKEN_STRIDE) * TOKEN_STRIDE for side in self.geometry.output)
        return max(height, self.tile[0]), max(width, self.tile[1])

    @property
    def padding(self) -> tuple[int, int]:
        """Rows and columns from the canvas to the target, which the colour fix of one piece sees as well."""
        (height, width), target = self.canvas, self.geometry.target
        return max(0, target[0] - height), max(0, target[1] - width)

    @cached_property
    def corners(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First rows of the tiles, and first columns, spread evenly."""
        (height, width), (tile_height, tile_width) = self.canvas, self.tile
        rows = tile_starts(height, tile_height)
        return rows, tile_starts(width, tile_width)

    @cached_property
    def tiles(self) -> tuple[Tile, ...]:
        """Every tile."""
        return tuple(Tile(top, left, *self.tile) for top in self.corners[0] for left in self.corners[1])

    @cached_property
    def weights(self) -> tuple[np.ndarray, ...]:
        """How much each tile counts in each of its pixels, float32 [height, width]: 1 in all, everywhere."""
        rows, columns = (
            tile_weights(starts, tile) for starts, tile in zip(self.corners, self.tile, strict=True)
        )
        return tuple(np.outer(row, column).astype(np.float32) for row in rows for column in columns)

    def tile_stream(self, stream: StreamConfig) -> StreamConfig:
        """What each tile runs.

        Raises:
            UsageError: the upsampler's frames are not of 8 bits, which is what tiles are cut from.
        """
        if stream.upsampler != UPSAMPLERS[0]:
            raise UsageError(
                f"tiles are cut from frames of 8 bits, which --upsampler {stream.upsampler} does not make; "
                f"use --upsampler {UPSAMPLERS[0]} or --tile off"
            )
        return replace(stream, geometry=tile_geometry(self.tile))


def tile_geometry(tile: tuple[int, int]) -> Geometry:
    """Of a tile's stream. Raises UsageError for a size that no tile can have."""
    check_tile(tile)
    return Geometry(*tile, scale=1)


def check_tile(tile: tuple[int, int]) -> None:
    """Raise UsageError for a size that no tile can have."""
    height, width = tile
    if min(tile) < LEAST_SIDE or height % SIZE_MULTIPLE or width % SIZE_MULTIPLE:
        raise UsageError(
            f"--tile {width}x{height} is no size of a tile: its sides are pixels of the upscaled frame, in "
            f"multiples of {SIZE_MULTIPLE} from {LEAST_SIDE} on; the nearest is "
            f"{nearest_size(height, width, LEAST_SIDE)}"
        )


def tile_starts(length: int, tile: int) -> tuple[int, ...]:
    """Where the fewest tiles start that cover `length` pixels, a multiple of a token's side, evenly."""
    if length <= tile:
        return (0,)
    count = -(-(length - OVERLAP) // (tile - OVERLAP))
    return tuple(
        number * (length - tile) // (count - 1) // TOKEN_STRIDE * TOKEN_STRIDE for number in range(count)
    )


def tile_weights(starts: tuple[int, ...], tile: int) -> list[np.ndarray]:
    """Raised cosines in an axis's overlaps: float64 [tile] of each tile, 1 in all at every pixel."""
    total = np.zeros(starts[-1] + tile)
    ramps = []
    for number, start in enumerate(starts):
        ramp = np.ones(tile)
        if number:
            ramp *= _rising(tile, starts[number - 1] + tile - start)
        if start != starts[-1]:
            ramp *= _rising(tile, start + tile - starts[number + 1])[::-1]
        total[start : start + tile] += ramp
        ramps.append(ramp)
    return [ramp / total[start : start + tile] for ramp, start in zip(ramps, starts, strict=True)]


def _rising(tile: int, shared: int) -> np.ndarray:
    """From 0 to 1 over OVERLAP pixels in the middle of the `shared` ones, with no corner at either end.

    What is nearer to the tile's border is not used: there its network sees nothing on one side.
    """
    place = (np.arange(tile) + 0.5 - (shared - OVERLAP) / 2) / OVERLAP
    return (1 - np.cos(np.pi * place.clip(0, 1))) / 2
