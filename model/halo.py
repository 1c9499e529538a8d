"""Halo exchange: what an operator makes of a rank's rows of a frame, made as of the whole frame."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from flashvsr_trt.kernels.calls import counted_calls
from flashvsr_trt.model.communicator import HALO, Communicator


def with_halo(
    operator: Callable[..., torch.Tensor],
    read: tuple[torch.Tensor, ...],
    communicator: Communicator,
    aligned: tuple[torch.Tensor, ...] = (),
) -> torch.Tensor:
    """`operator(*read, *aligned)` of this rank's rows, of which an output row sees one more to each side.

    The operator runs as if the frame ended with these rows, while the neighbours' rows travel. Its first and
    last rows are then made again, of strips of three rows, and written over: a fused operator stays whole.
    Ranks call this at the same time.

    Args:
        operator: makes [.., C, s*h, w] of [.., C, h, w], the s rows of each row of those around it.
        read: what it reads around each row.
        communicator: has the rows above and below.
        aligned: what it reads at each row alone, as a residual.
    """
    if communicator.size == 1:
        return operator(*read, *aligned)
    edges = Edges.of(communicator, read[0].shape[2])
    strips = [edges.strip(x) for x in read]
    arrived = edges.start(communicator, read, strips)
    made = operator(*read, *aligned)
    same = [edges.aligned(x) for x in aligned]
    arrived()
    # The whole's work was counted above.
    with counted_calls():
        again = operator(*(laid_like(strip, read[0]) for strip in (*strips, *same)))
    edges.write(again, made)
    return made


@dataclass(frozen=True)
class Edges:
    """A rank's rows that a neighbour's rows change: the first where one is `above`, the last for `below`.

    A strip is an edge row with the rows on either side of it. Both strips are one image, since nothing but
    their middle rows is kept. A rank of a single row has one strip, which ends where the frame does.
    """

    above: int | None
    below: int | None
    height: int

    @classmethod
    def of(cls, communicator: Communicator, height: int) -> "Edges":
        """Of one of several ranks, with `height` rows."""
        above, below = communicator.rank - 1, communicator.rank + 1
        return cls(None if above < 0 else above, None if below == communicator.size else below, height)

    @property
    def sides(self) -> int:
        """Neighbours."""
        return (self.above is not None) + (self.below is not None)

    @property
    def strip_rows(self) -> int:
        """Rows of the image of strips."""
        return 1 + self.sides if self.height == 1 else 3 * self.sides

    @property
    def kept(self) -> slice:
        """The rows of that image that are kept."""
        return slice(0 if self.height == 1 and self.above is None else 1, None, 3)

    @property
    def places(self) -> slice:
        """Where they belong."""
        first = 0 if self.above is not None else self.height - 1
        return slice(first, None if self.below is not None else 1, max(self.height - 1, 1))

    def strip(self, x: torch.Tensor) -> torch.Tensor:
        """The strips of x [T, C, h, w], channels innermost: [T, rows, w, C], without the neighbours' rows."""
        rows = x.permute(0, 2, 3, 1)
        strip = rows.new_empty(len(x), self.strip_rows, *rows.shape[2:])
        # A single row is written to both places: a neighbour's row takes the other.
        if self.above is not None:
            strip[:, 1:3] = rows[:, :2]
        if self.below is not None:
            strip[:, -3:-1] = rows[:, -2:]
        return strip

    def aligned(self, x: torch.Tensor) -> torch.Tensor:
        """The same of what is read at the kept rows alone; the others' values do not matter."""
        rows = x.permute(0, 2, 3, 1)
        strip = rows.new_empty(len(x), self.strip_rows, *rows.shape[2:])
        strip[:, self.kept] = rows[:, self.places]
        return strip

    def start(
        self, communicator: Communicator, read: tuple[torch.Tensor, ...], strips: list[torch.Tensor]
    ) -> Callable[[], None]:
        """Trade edge rows in one call, frame by frame: so they lie one after another, here and there."""
        sends, receives = {}, {}
        for neighbour, edge in ((self.above, 0), (self.below, -1)):
            if neighbour is not None:
                sends[neighbour] = [row for x in read for row in x.permute(0, 2, 3, 1)[:, edge]]
                receives[neighbour] = [row for strip in strips for row in strip[:, edge]]
        return communicator.start(sends, receives, HALO)

    def write(self, again: torch.Tensor, made: torch.Tensor) -> None:
        """Put the kept rows of what was made of strips, each s rows high, where they belong."""
        kept = again.unflatten(2, (self.strip_rows, -1))[:, :, self.kept]
        made.unflatten(2, (self.height, -1))[:, :, self.places] = kept


def laid_like(strip: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """[T, rows, w, C] as [T, C, rows, w] in the memory layout of x: operators read channels innermost."""
    strip = strip.permute(0, 3, 1, 2)
    return strip if x.is_contiguous(memory_format=torch.channels_last) else strip.contiguous()
