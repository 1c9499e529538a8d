"""Pictures turned upright: EXIF knows eight orientations, quarter turns and mirrors."""

import av
import numpy as np

from flashvsr_trt.runtime.video.carried_side_data import side_data

UPRIGHT = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The display matrix that changes nothing."""


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Rotation and flips as FFmpeg's nine fixed-point numbers; None when there are none."""
    data = side_data(frame).get("DISPLAYMATRIX")
    matrix = tuple(np.frombuffer(data, np.int32).tolist()) if data else None
    return None if matrix == UPRIGHT else matrix


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
