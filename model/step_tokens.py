"""Which of a step's tokens and heads are worked on here, and how the rest of them come and go.

Outside the DiT tokens are shared by rows, inside by whole windows in window order, in attention by heads. One
process has all of them, so that only their order changes and keys and values are made where they are kept.
"""

import torch

from flashvsr_trt.config.presets import UNIT_LATENT_FRAMES
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.model.attention import LayerCache
from flashvsr_trt.model.communicator import Communicator, exchange
from flashvsr_trt.model.sharding import Sharding, length
from flashvsr_trt.model.windows import from_windows, to_windows

ATTENTION, TOKENS = "attention", "tokens"
"""Kinds of traffic, by which a communicator counts what is sent."""

Projections = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Queries, keys and values of this process's tokens and all heads, [tokens, heads, head_dim] each."""

Means = tuple[torch.Tensor, torch.Tensor]
"""Window means of the queries and of the keys, [windows, heads, head_dim] float32 each."""


class AllTokens:
    """The tokens and heads of a step in one process: all tokens on a grid of `grid` rows and columns."""

    def __init__(self, grid: tuple[int, int]) -> None:
        self.grid = grid

    def to_windows(self, x: torch.Tensor) -> torch.Tensor:
        """Features of this process's rows, (frame, row, column) order -> of its windows, window order."""
        return to_windows(x, self.grid)

    def to_rows(self, x: torch.Tensor) -> torch.Tensor:
        """The inverse of `to_windows`."""
        return from_windows(x, self.grid)

    def of_windows(self, table: torch.Tensor) -> torch.Tensor:
        """Of a table of all the step's tokens, in window order, those of this process's windows."""
        return table

    def projections(self, h: torch.Tensor, new: LayerCache) -> Projections:
        """Where a layer's projections of h [tokens, dim] are to be written: here, where they are kept."""
        q = new.keys.new_empty(h.shape[0], *new.keys.shape[2:])
        return q, new.keys.flatten(0, 1), new.values.flatten(0, 1)

    def to_heads(
        self, projections: Projections, means: Means, new: LayerCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All tokens' queries of this process's heads, and their means; `new` is complete afterwards."""
        q_means, k_means = means
        new.key_means.copy_(k_means.view_as(new.key_means))
        return projections[0], q_means

    def to_tokens(self, attended: torch.Tensor) -> torch.Tensor:
        """[all tokens, own heads, head_dim] -> [own tokens, all heads, head_dim]."""
        return attended


class RankTokens:
    """A rank's part of a step of `units` units: each rank sends what another works on, and keeps the rest."""

    def __init__(
        self, sharding: Sharding, communicator: Communicator, units: int, device: torch.device
    ) -> None:
        self.communicator, self.rank = communicator, communicator.rank
        self.windows, self.tokens, self.heads = (
            sharding.windows(units),
            sharding.tokens(units),
            sharding.heads,
        )
        by_row, by_window = row_owners(sharding, units), window_owners(sharding, units)
        frame_order = to_windows(torch.arange(len(by_row)), sharding.stream.geometry.tokens)
        # Where a token is among the tokens of its owner, by its place in window order.
        place_by_row = places(by_row)[frame_order]
        place_by_window = places(by_window)
        by_row = by_row[frame_order]

        def moving(source: int, target: int) -> torch.Tensor:
            return torch.nonzero((by_row == source) & (by_window == target)).flatten()

        ranks = range(communicator.size)
        self.in_rows = [place_by_row[moving(self.rank, other)].to(device) for other in ranks]
        self.in_windows = [place_by_window[moving(other, self.rank)].to(device) for other in ranks]

    def to_windows(self, x: torch.Tensor) -> torch.Tensor:
        return self._move(x, self.in_rows, self.in_windows)

    def to_rows(self, x: torch.Tensor) -> torch.Tensor:
        return self._move(x, self.in_windows, self.in_rows)

    def of_windows(self, table: torch.Tensor) -> torch.Tensor:
        return table[self.tokens[self.rank]]

    def projections(self, h: torch.Tensor, new: LayerCache) -> Projections:
        q, k, v = h.new_empty(3, h.shape[0], self.heads[-1].stop, new.keys.shape[-1]).unbind()
        return q, k, v

    def to_heads(
        self, projections: Projections, means: Means, new: LayerCache
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `AllTokens.to_heads`: one exchange, and keys and values arrive where they are kept."""
        heads, head_dim = new.keys.shape[-2:]
        q = projections[0].new_empty(self.tokens[-1].stop, heads, head_dim)
        q_means = means[0].new_empty(self.windows[-1].stop, heads, head_dim)
        by_token = q, new.keys.flatten(0, 1), new.values.flatten(0, 1)
        by_window = q_means, new.key_means.flatten(0, 1)
        exchange(
            self.communicator,
            [[x[:, run] for x in (*projections, *means)] for run in self.heads],
            [
                [*(x[tokens] for x in by_token), *(x[windows] for x in by_window)]
                for tokens, windows in zip(self.tokens, self.windows, strict=True)
            ],
            ATTENTION,
        )
        return q, q_means

    def to_tokens(self, attended: torch.Tensor) -> torch.Tensor:
        own = length(self.tokens[self.rank])
        parts = [attended.new_empty(own, length(run), attended.shape[2]) for run in self.heads]
        exchange(self.communicator, [[attended[run]] for run in self.tokens], [[x] for x in parts], ATTENTION)
        return torch.cat(parts, dim=1)

    def _move(self, x: torch.Tensor, going: list[torch.Tensor], coming: list[torch.Tensor]) -> torch.Tensor:
        arrived = x.new_empty(sum(map(len, coming)), x.shape[1])
        parts = arrived.split([len(places) for places in coming])
        exchange(self.communicator, [[x[places]] for places in going], [[part] for part in parts], TOKENS)
        return torch.empty_like(arrived).index_copy_(0, torch.cat(coming), arrived)


StepTokens = AllTokens | RankTokens
"""The tokens and heads of one process in a step."""


def step_tokens(
    stream: StreamConfig, communicator: Communicator, device: torch.device, units: int
) -> StepTokens:
    """This process's part of a step of `units` units."""
    if communicator.size == 1:
        return AllTokens(stream.geometry.tokens)
    return RankTokens(Sharding(stream, communicator.size), communicator, units, device)


def row_owners(sharding: Sharding, units: int) -> torch.Tensor:
    """Rank of each token of a step by its row: [tokens] in (frame, row, column) order."""
    rows, columns = sharding.stream.geometry.tokens
    owner = torch.repeat_interleave(torch.tensor([length(run) for run in sharding.rows]))
    return owner[None, :, None].expand(units * UNIT_LATENT_FRAMES, rows, columns).flatten()


def window_owners(sharding: Sharding, units: int) -> torch.Tensor:
    """Rank of each token of a step by its place in window order: [tokens] in window order."""
    return torch.repeat_interleave(torch.tensor([length(run) for run in sharding.tokens(units)]))


def places(owner: torch.Tensor) -> torch.Tensor:
    """How many earlier entries have the same owner."""
    place = torch.empty_like(owner)
    for rank in owner.unique():
        own = owner == rank
        place[own] = torch.arange(int(own.sum()))
    return place
