"""Pictures turned upright: EXIF knows eight orientations, quarter turns and mirrors."""

import numpy as np


def upright(pixels: np.ndarray, matrix: tuple[int, ...] | None) -> np.ndarray:
    """[H, W, ...] as it is to be shown: [W, H, ...] after a quarter turn; None changes nothing.

    `matrix` is FFmpeg's display matrix a b u, c d v, x y w, in rows: what is stored at column x and row y
    is shown at column ax + cy and row bx + dy.
    """
    if matrix is None:
        return pixels
    a, b, _, c, d, *_ = matrix
    if a == 0:
        pixels = pixels.swapaxes(0, 1)
        row_sign, column_sign = b, c
    else:
        row_sign, column_sign = d, a
    pixels = pixels[::-1] if row_sign < 0 else pixels
    pixels = pixels[:, ::-1] if column_sign < 0 else pixels
    return np.ascontiguousarray(pixels)


def is_quarter_turn(matrix: tuple[int, ...] | None) -> bool:
    """Whether the sides change places."""
    return matrix is not None and matrix[0] == 0
