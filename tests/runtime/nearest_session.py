"""A session without a network: nearest-neighbour 2x, with the latency of the real one."""

from pathlib import Path

import numpy as np

from flashvsr_trt.runtime.pipeline import PipelineReport, upscale_video
from flashvsr_trt.runtime.request import InputOptions, OutputOptions
from flashvsr_trt.runtime.video.input import open_input
from flashvsr_trt.runtime.video.output import open_output

SCALE = 2


class NearestSession:
    """Gives 21 frames first and 8 at a time after that, four frames late; the rest at the flush."""

    def __init__(self) -> None:
        self.inside: list[np.ndarray] = []
        self.group = 21

    def push(self, frames: np.ndarray) -> np.ndarray:
        self.inside += list(frames)
        ready = frames[:0]
        while len(self.inside) >= self.group + 4:
            ready = np.concatenate([ready, self.inside[: self.group]])
            del self.inside[: self.group]
            self.group = 8
        return _enlarge(ready)

    def flush(self) -> np.ndarray:
        return _enlarge(np.stack(self.inside))


def _enlarge(frames: np.ndarray) -> np.ndarray:
    return frames.repeat(SCALE, axis=1).repeat(SCALE, axis=2)


def upscale(
    source: Path | str,
    target: Path | str,
    *,
    session: NearestSession | None = None,
    input_options: dict | None = None,
    **output_options,
) -> tuple[PipelineReport, list[str]]:
    """Runs a video through a nearest session; returns the report and the notices."""
    notices: list[str] = []
    output_options.setdefault("encoder_options", {"preset": "ultrafast"})
    with open_input(str(source), InputOptions(**(input_options or {})), notices.append) as video:
        size = (video.info.height * SCALE, video.info.width * SCALE)
        options = OutputOptions(**output_options)
        with open_output(str(target), video, size, options, notify=notices.append) as output:
            report = upscale_video(video, session or NearestSession(), output)
    return report, notices
