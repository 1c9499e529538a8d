"""Which rank has which rows, tokens and heads of a stream. Arithmetic only.

Pixels, projector and decoder are shared by rows of tokens, the DiT by runs of whole windows, its attention by
heads. All of them may be uneven, and a rank may have no window or no head at all.
"""

from dataclasses import dataclass
from functools import cached_property

from flashvsr_trt.config.presets import PATCH, TOKEN_STRIDE, WINDOW_TOKENS
from flashvsr_trt.config.signatures import Role, StreamConfig, TensorSpec
from flashvsr_trt.errors import UsageError

BICUBIC_MARGIN = 2
"""LR rows beyond its own pixels that a bicubic kernel of four taps reads."""


def split_evenly(count: int, parts: int) -> tuple[slice, ...]:
    """`count` things in order as `parts` runs; the first ones have one more where it does not divide."""
    sizes = [count // parts + (part < count % parts) for part in range(parts)]
    return tuple(slice(sum(sizes[:part]), sum(sizes[: part + 1])) for part in range(parts))


def length(run: slice) -> int:
    """Things in a run."""
    return run.stop - run.start


@dataclass(frozen=True)
class Sharding:
    """How `size` ranks share a stream; each property has an entry for every rank.

    Raises:
        UsageError: there are fewer rows of tokens than ranks.
    """

    stream: StreamConfig
    size: int

    def __post_init__(self) -> None:
        geometry = self.stream.geometry
        height, width = geometry.target
        if self.size > geometry.tokens[0]:
            raise UsageError(
                f"{self.size} ranks cannot share the {geometry.tokens[0]} rows of tokens of "
                f"{width}x{height}; use at most {geometry.tokens[0]} ranks"
            )

    @cached_property
    def rows(self) -> tuple[slice, ...]:
        """Rows of tokens."""
        return split_evenly(self.stream.geometry.tokens[0], self.size)

    @cached_property
    def latent_rows(self) -> tuple[slice, ...]:
        """The same rows on the latent grid."""
        return tuple(slice(run.start * PATCH, run.stop * PATCH) for run in self.rows)

    @cached_property
    def pixel_rows(self) -> tuple[slice, ...]:
        """The same rows in pixels of the target."""
        return tuple(slice(run.start * TOKEN_STRIDE, run.stop * TOKEN_STRIDE) for run in self.rows)

    @cached_property
    def upscaled_rows(self) -> tuple[slice, ...]:
        """The same rows in the upscaled frame: cut off at its end, where its last row is repeated."""
        geometry = self.stream.geometry
        top, last = geometry.crop_corner[0], geometry.upscaled[0] - 1
        return tuple(
            slice(min(top + run.start, last), min(top + run.stop - 1, last) + 1) for run in self.pixel_rows
        )

    @cached_property
    def lr_rows(self) -> tuple[slice, ...]:
        """Rows of the LR frame that a rank needs to upscale its pixels; neighbours' runs overlap."""
        geometry = self.stream.geometry
        runs = []
        for rows in self.upscaled_rows:
            first, last = rows.start // geometry.scale, (rows.stop - 1) // geometry.scale
            runs.append(
                slice(max(first - BICUBIC_MARGIN, 0), min(last + BICUBIC_MARGIN + 1, geometry.height))
            )
        return tuple(runs)

    @cached_property
    def upscaled_parts(self) -> tuple[tuple[int, tuple[int, int], tuple[int, int]], ...]:
        """LR rows, and where and how large a rank's pixels are in what these are upscaled to (`Upscaler`)."""
        geometry = self.stream.geometry
        return tuple(
            (
                length(lr_rows),
                (rows.start - lr_rows.start * geometry.scale, geometry.crop_corner[1]),
                (length(pixel_rows), geometry.target[1]),
            )
            for rows, lr_rows, pixel_rows in zip(
                self.upscaled_rows, self.lr_rows, self.pixel_rows, strict=True
            )
        )

    @cached_property
    def heads(self) -> tuple[slice, ...]:
        """Attention heads."""
        return split_evenly(self.stream.preset.network.dit.heads, self.size)

    def carried_shape(self, spec: TensorSpec, rank: int) -> tuple[int, ...]:
        """A rank's part of what is carried: its heads of the ring, its rows of anything else."""
        runs = self.heads if spec.role is Role.RING else self.rows
        shared = spec.shape[2] // runs[-1].stop * length(runs[rank])
        return *spec.shape[:2], shared, *spec.shape[3:]

    def windows(self, units: int) -> tuple[slice, ...]:
        """Windows of a step of `units` units."""
        return split_evenly(units * self.stream.geometry.unit_windows, self.size)

    def tokens(self, units: int) -> tuple[slice, ...]:
        """The tokens of these windows, in window order."""
        return tuple(
            slice(run.start * WINDOW_TOKENS, run.stop * WINDOW_TOKENS) for run in self.windows(units)
        )
