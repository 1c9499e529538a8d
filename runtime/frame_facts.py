"""What a decoded frame or a failure says about its input, besides pixels."""

from collections.abc import Callable

import av
import numpy as np


def announce_losses(path: str, frame: av.VideoFrame, notify: Callable[[str], None]) -> None:
    """Tells `notify`, one line each, what of this kind of frame does not reach the output."""
    components = frame.format.components
    if max(component.bits for component in components) > 8:
        notify(f"{path}: {frame.format.name} is rounded to 8 bits a sample")
    if any(component.is_alpha for component in components):
        notify(f"{path}: the alpha channel of {frame.format.name} is not kept")
    if frame.interlaced_frame:
        notify(f"{path} is interlaced and is taken as it is; deinterlace it first for good results")


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Rotation and flips as FFmpeg's nine fixed-point numbers; None when there are none."""
    data = next((bytes(d) for d in frame.side_data if d.type.name == "DISPLAYMATRIX"), None)
    return tuple(np.frombuffer(data, np.int32).tolist()) if data else None


def error_reason(error: Exception) -> str:
    """The error in few words, without codes and file names."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
