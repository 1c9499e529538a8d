"""Tables of the 3-D rotary position embedding, in float64 until the last step.

Angles follow the official `precompute_freqs_cis_3d`: theta 10000, interleaved pairs, and a head's channels
split into time, row and column parts. Positions are unbounded here (the official table ends at 1023).
"""

import numpy as np

THETA = 10000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Channels of a head that encode time, row and column. All three must be even.

    Raises:
        ValueError: `head_dim` does not split into even parts (64, for one).
    """
    third = head_dim // 3
    dims = (head_dim - 2 * third, third, third)
    if any(dim % 2 for dim in dims):
        raise ValueError(f"head_dim {head_dim} splits into {dims} channels, and RoPE needs even parts")
    return dims


def axis_table(positions: np.ndarray, dim: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, each float32 [positions, dim/2], of positions along one axis."""
    frequencies = THETA ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    angles = np.asarray(positions, dtype=np.float64)[:, None] * frequencies
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def time_table(positions: np.ndarray, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, each float32 [latent_frames, pairs], of latent frames at these positions."""
    return axis_table(positions, axis_dims(head_dim)[0])


def space_table(rows: int, columns: int, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin, each float32 [rows, columns, pairs], the row pairs before the column pairs."""
    _, row_dim, column_dim = axis_dims(head_dim)
    row = axis_table(np.arange(rows), row_dim)
    column = axis_table(np.arange(columns), column_dim)

    def grid(row_part: np.ndarray, column_part: np.ndarray) -> np.ndarray:
        shape = (rows, columns)
        return np.concatenate(
            [
                np.broadcast_to(row_part[:, None], (*shape, row_part.shape[-1])),
                np.broadcast_to(column_part[None], (*shape, column_part.shape[-1])),
            ],
            axis=-1,
        )

    return grid(row[0], column[0]), grid(row[1], column[1])
