"""The part of the stored frame that a container says is the picture: Matroska's PixelCrop, mp4's clap."""

import re
from typing import Any, cast

import av
from av.container import InputContainer

from flashvsr_trt.runtime.video.frame_filter import information_logged
from flashvsr_trt.runtime.video.picture_input import Crop

CROP_LINE = re.compile(r"^ +Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)$", re.MULTILINE)
"""As FFmpeg prints it of a stream: left, right, top, bottom. PyAV has no attribute for it."""


def container_crop(container: InputContainer, stream: av.VideoStream) -> Crop:
    """The container's crop of a stream. What the codec itself crops, the decoder has done."""
    with information_logged():
        printed = cast(Any, container).dumps_format()  # PyAV's stubs lack it
    parts = re.split(r"^ +Stream #\d+:(\d+)", printed, flags=re.MULTILINE)
    of_stream = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = CROP_LINE.search(of_stream.get(str(stream.index), ""))
    return Crop(*map(int, found.groups())) if found else Crop()
