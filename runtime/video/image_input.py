"""Image sequences as frames: each file is opened when its turn comes."""

from collections.abc import Iterator
from fractions import Fraction

import av
from av.error import FFmpegError

from flashvsr_trt.errors import TruncatedInputError, VideoError
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.video.info import DecodedFrame, VideoInfo, VideoInput
from flashvsr_trt.runtime.video.media_open import error_reason, open_media
from flashvsr_trt.runtime.video.picture_input import PictureReader


def open_images(
    path: str, images: list[str], start: int, limit: int | None, rate: Fraction, notify: Notify
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
        first, codec = _decode_image(images[0])
    except (FFmpegError, OSError, ValueError) as error:
        raise VideoError(
            f"{images[0]} cannot be read as an image ({error_reason(error)}); remove it"
        ) from error
    reader = PictureReader(path, first, codec, notify, turn=True)
    info = VideoInfo(
        name=path,
        height=reader.size[0],
        width=reader.size[1],
        rate=rate,
        time_base=1 / rate,
        color=reader.color,
        bits=reader.bits,
        alpha=reader.alpha,
        chroma_location=reader.chroma_location,
        frames=len(images),
    )
    return VideoInput(info, _image_frames(reader, images), lambda: None)


def _image_frames(reader: PictureReader, images: list[str]) -> Iterator[DecodedFrame]:
    for index, image in enumerate(images):
        try:
            frame, _ = _decode_image(image)
        except (FFmpegError, OSError, ValueError) as error:
            raise TruncatedInputError(
                f"{image} cannot be read ({error_reason(error)}); "
                f"the {index} images before it were used and the output is kept"
            ) from error
        pixels, beside = reader.read(frame, index, image)
        yield DecodedFrame(pixels, index, 1, beside)


def _decode_image(path: str) -> tuple[av.VideoFrame, str]:
    """The picture and the name of its decoder."""
    with open_media(path) as container:
        return next(container.decode(video=0)), container.streams.video[0].codec_context.name
