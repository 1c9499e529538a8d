"""Block selection: which key windows each query window attends to.

The PyTorch reference here is the specification (FlashVSR v1.1 `generate_draft_block_mask`): per head and
query unit, all entries of the block map are ranked together and those strictly above a threshold are kept.
"""

import torch


def window_means(x: torch.Tensor, window_tokens: int) -> torch.Tensor:
    """Mean of each window: [tokens, heads, head_dim], window order -> [windows, heads, head_dim] float32."""
    tokens, heads, head_dim = x.shape
    return x.view(tokens // window_tokens, window_tokens, heads, head_dim).float().mean(dim=1)


def local_neighbourhood(rows: int, columns: int, local_range: int) -> torch.Tensor:
    """Bool [W, W]: whether key window j is in the square neighbourhood of query window i, W = rows*columns.

    The neighbourhood of row r is r - R//2 .. r - R//2 + R - 1 for R = local_range, not moved at borders.
    """
    row = torch.arange(rows).repeat_interleave(columns)
    column = torch.arange(columns).repeat(rows)

    def near(position: torch.Tensor) -> torch.Tensor:
        offset = position[None, :] - position[:, None] + local_range // 2
        return (offset >= 0) & (offset < local_range)

    return near(row) & near(column)


def block_probability(
    q_means: torch.Tensor,
    k_means: torch.Tensor,
    slot_valid: torch.Tensor,
    neighbourhood: torch.Tensor,
) -> torch.Tensor:
    """The map that blocks are ranked by: softmax over the visible key windows of each query window.

    Args:
        q_means: [units*W, heads, head_dim] float32.
        k_means: [(slots+own)*W, heads, head_dim] float32; the ring's slots first, then the step's own units,
            if these are not among the slots.
        slot_valid: [slots] bool; an invalid slot gets probability 0.
        neighbourhood: [W, W] bool.

    Returns:
        [heads, units, W, (slots+own)*W] float32.
    """
    windows = neighbourhood.shape[0]
    units = q_means.shape[0] // windows
    kv_units = k_means.shape[0] // windows
    scores = torch.einsum("qhd,khd->hqk", q_means, k_means) * q_means.shape[-1] ** -0.5
    unit_valid = torch.cat([slot_valid, slot_valid.new_ones(kv_units - slot_valid.shape[0])])
    visible = (unit_valid[None, :, None] & neighbourhood[:, None, :]).reshape(windows, kv_units * windows)
    scores = scores.view(-1, units, windows, kv_units * windows)
    return torch.softmax(scores.masked_fill(~visible, float("-inf")), dim=-1)


def select_blocks_reference(
    probability: torch.Tensor, slot_valid: torch.Tensor, top_k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Keep, per head and query unit, the entries strictly greater than the (m+1)-th largest.

    m = min(entries - 1, top_k), where entries counts the W query windows times the key windows of valid
    slots and of own units. Entries of invalid slots must be 0, as `block_probability` makes them.

    Args:
        probability: [heads, units, W, (slots+own)*W] float32, non-negative; own is `units`, or 0 where the
            step's own units are among the slots.
        slot_valid: [slots] bool.
        top_k: blocks a head may keep per query unit.

    Returns:
        index: [heads, units*W, (slots+own)*W] int32, the kept key windows of each query window in
            ascending order; entries from `count` on are 0.
        count: [heads, units*W] int32, may be 0.
    """
    heads, units, windows, key_windows = probability.shape
    own = key_windows // windows - slot_valid.shape[0]
    entries = windows * windows * (slot_valid.sum() + own)
    kept = torch.clamp(entries - 1, max=top_k)
    ranked = probability.flatten(2).sort(dim=-1, descending=True).values
    threshold = ranked.index_select(-1, kept.reshape(1))[..., None]
    return compact_mask((probability > threshold).view(heads, units * windows, key_windows))


def compact_mask(mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bool [heads, rows, n] -> (index [heads, rows, n] int32, count [heads, rows] int32)."""
    count = mask.sum(dim=-1, dtype=torch.int32)
    # A stable sort of "not kept" brings the kept columns to the front, in ascending order.
    order = torch.sort((~mask).to(torch.uint8), dim=-1, stable=True).indices
    position = torch.arange(mask.shape[-1], device=mask.device)
    return torch.where(position < count[..., None], order, 0).to(torch.int32), count


def expand_mask(index: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    """The inverse of `compact_mask`: bool [heads, rows, n]."""
    kept = torch.arange(index.shape[-1], device=index.device) < count[..., None]
    mask = torch.zeros(index.shape, dtype=torch.int32, device=index.device)
    return mask.scatter_add(-1, index.long(), kept.to(torch.int32)) > 0
