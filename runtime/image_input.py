"""Image sequences as frames: each file is opened when its turn comes."""

from collections.abc import Callable, Iterator
from fractions import Fraction

import av
from av.video.reformatter import VideoReformatter

from flashvsr_trt.errors import TruncatedInputError, VideoError
from flashvsr_trt.runtime.frame_facts import announce_losses, display_matrix, error_reason
from flashvsr_trt.runtime.media_open import open_media
from flashvsr_trt.runtime.video_color import read_color_tags, to_rgb
from flashvsr_trt.runtime.video_info import DecodedFrame, VideoInfo, VideoInput


def open_images(
    path: str,
    images: list[str],
    start: int,
    limit: int | None,
    rate: Fraction,
    notify: Callable[[str], None],
) -> VideoInput:
    """The images that `path` names as a video of `rate` frames a second.

    Raises VideoError when the first cannot be read. Iteration raises VideoError for another size, and
    TruncatedInputError at the first image that cannot be read.
    """
    total = len(images)
    images = images[start:][:limit]
    if not images:
        raise VideoError(f"{path} has only {total} images and none from {start} on; start earlier")
    try:
        first = _decode_image(images[0])
    except (av.FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"{images[0]} cannot be read as an image ({error_reason(error)}); remove it"
        ) from error
    announce_losses(images[0], first, notify)
    info = VideoInfo(
        name=path,
        height=first.height,
        width=first.width,
        rate=rate,
        time_base=1 / rate,
        color=read_color_tags(first),
        frames=len(images),
        display_matrix=display_matrix(first),
    )
    return VideoInput(info, _image_frames(info, images), lambda: None)


def _image_frames(info: VideoInfo, images: list[str]) -> Iterator[DecodedFrame]:
    reformatter = VideoReformatter()
    for index, image in enumerate(images):
        try:
            frame = _decode_image(image)
        except (av.FFmpegError, OSError, ValueError) as error:
            raise TruncatedInputError(
                f"{image} cannot be read ({error_reason(error)}); "
                f"the {index} images before it were used and the output is kept"
            ) from error
        if (frame.height, frame.width) != (info.height, info.width):
            raise VideoError(
                f"{image} (frame {index}) is {frame.width}x{frame.height} and those before are "
                f"{info.width}x{info.height}; a sequence needs one size"
            )
        yield DecodedFrame(to_rgb(frame, read_color_tags(frame), reformatter), index, 1)


def _decode_image(path: str) -> av.VideoFrame:
    with open_media(path) as container:
        return next(container.decode(video=0))
