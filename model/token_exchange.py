"""Between the two ways a step's tokens are shared: by rows, and by runs in window order."""

import torch

from flashvsr_trt.config.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.model.ranks import Ranks
from flashvsr_trt.model.sharding import Sharding, length
from flashvsr_trt.model.windows import to_windows


def row_owners(sharding: Sharding, units: int) -> torch.Tensor:
    """Rank of each token of a step by its row: [tokens] in (frame, row, column) order."""
    rows, columns = sharding.stream.geometry.tokens
    owner = torch.repeat_interleave(torch.tensor([length(run) for run in sharding.rows]))
    return owner[None, :, None].expand(units * UNIT_LATENT_FRAMES, rows, columns).flatten()


def window_owners(sharding: Sharding, units: int) -> torch.Tensor:
    """Rank of each token of a step by its place in window order: [tokens] in window order."""
    return torch.repeat_interleave(torch.tensor([length(run) for run in sharding.tokens(units)]))


class TokenExchange:
    """Moves per-token features of a step of `units` units; each rank sends what another works on."""

    def __init__(self, sharding: Sharding, ranks: Ranks, units: int) -> None:
        self.ranks = ranks
        by_row, by_window = row_owners(sharding, units), window_owners(sharding, units)
        frame_order = to_windows(torch.arange(len(by_row)), sharding.stream.geometry.tokens)
        # Where a token is among the tokens of its owner, by its place in window order.
        place_by_row = places(by_row)[frame_order]
        place_by_window = places(by_window)
        by_row = by_row[frame_order]

        def moving(source: int, target: int) -> torch.Tensor:
            return torch.nonzero((by_row == source) & (by_window == target)).flatten()

        others = range(ranks.size)
        self.in_rows = [place_by_row[moving(ranks.rank, other)].to(ranks.device) for other in others]
        self.in_windows = [place_by_window[moving(other, ranks.rank)].to(ranks.device) for other in others]

    def to_windows(self, x: torch.Tensor) -> torch.Tensor:
        """This rank's rows [tokens of the rows, C], (frame, row, column) order -> its run [tokens/N, C]."""
        return self._move(x, self.in_rows, self.in_windows)

    def to_rows(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_windows`."""
        return self._move(x, self.in_windows, self.in_rows)

    def _move(self, x: torch.Tensor, going: list[torch.Tensor], coming: list[torch.Tensor]) -> torch.Tensor:
        counts = [len(places) * x.shape[1] for places in coming]
        arrived = self.ranks.all_to_all([x[places] for places in going], counts, "tokens")
        arrived = arrived.view(-1, x.shape[1])
        return torch.empty_like(arrived).index_copy_(0, torch.cat(coming), arrived)


def places(owner: torch.Tensor) -> torch.Tensor:
    """How many earlier entries have the same owner."""
    place = torch.empty_like(owner)
    for rank in owner.unique():
        own = owner == rank
        place[own] = torch.arange(int(own.sum()))
    return place
