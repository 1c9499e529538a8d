"""What a decoded frame or a failure says about its input, besides pixels."""

import av
import numpy as np

from flashvsr_trt.runtime.video.frame_side_data import side_data

UPRIGHT = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The display matrix that changes nothing."""


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Rotation and flips as FFmpeg's nine fixed-point numbers; None when there are none."""
    data = side_data(frame).get("DISPLAYMATRIX")
    matrix = tuple(np.frombuffer(data, np.int32).tolist()) if data else None
    return None if matrix == UPRIGHT else matrix


def error_reason(error: Exception) -> str:
    """The error in few words, without codes and file names."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
