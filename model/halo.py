"""Halo exchange: what an operator makes of a rank's rows of a frame, made as of the whole frame."""

from collections.abc import Callable

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
    last rows are then made again, of a strip of three rows, and written over: a fused operator stays whole.
    Ranks call this at the same time.

    Args:
        operator: makes [.., C, s*h, w] of [.., C, h, w], the s rows of each row of those around it.
        read: what it reads around each row.
        communicator: has the rows above and below.
        aligned: what it reads at each row alone, as a residual; s is 1 where there is any.
    """
    if communicator.size == 1:
        return operator(*read, *aligned)
    arriving = [communicator.swap_rows(x, 1, HALO) for x in read]
    made = operator(*read, *aligned)
    around = [arrived() for arrived in arriving]
    height = read[0].shape[2]
    scale = made.shape[2] // height
    above, below = (side is not None for side in around[0])
    # Of a single row the first strip has both neighbours.
    for first in [True] * above + [False] * (below and not (above and height == 1)):
        strips = [_strip(x, *rows, first) for x, rows in zip(read, around, strict=True)]
        size = strips[0].shape[2]
        place = 1 if first else size - 2
        edge = slice(0, 1) if first else slice(-1, None)
        same = [_like(x[:, :, edge].expand(-1, -1, size, -1), read[0]) for x in aligned]
        # The whole's work was counted above.
        with counted_calls():
            again = operator(*strips, *same)
        target = slice(0, scale) if first else slice(-scale, None)
        made[:, :, target] = again[:, :, place * scale : (place + 1) * scale]
    return made


def _strip(
    x: torch.Tensor, above: torch.Tensor | None, below: torch.Tensor | None, first: bool
) -> torch.Tensor:
    """The first or the last row of x with the row on either side of it, as far as the frame goes."""
    inner = x[:, :, :2] if first else x[:, :, -2:]
    parts = [above if first else None, inner, below if not first or x.shape[2] == 1 else None]
    return _like(torch.cat([part for part in parts if part is not None], dim=2), x)


def _like(strip: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The strip in the memory layout of x: operators read channels innermost."""
    innermost = x.is_contiguous(memory_format=torch.channels_last)
    return strip.contiguous(memory_format=torch.channels_last if innermost else torch.contiguous_format)
