"""Where a run writes: the name that was given, stdout, or a name beside the input."""

import io
import os
import sys
from pathlib import Path

import av
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError

from flashvsr_trt.errors import UsageError
from flashvsr_trt.files.image_sequence import names_images
from flashvsr_trt.runtime.request import PIPE_FORMATS
from flashvsr_trt.runtime.video.encoder import CONTAINER_CODECS, DEFAULT_CODEC
from flashvsr_trt.runtime.video.media_open import create_media, is_url

STDOUT = "/dev/stdout"
STDOUT_NAMES = ("-", "pipe:", "pipe:1", STDOUT)

HOLDS_ALL = ".mkv"
"""For inputs whose own container is only read, or holds no modern video: .divx, .gif, .ogv, .y4m."""


def check_stdout(reports: dict[str, str | None]) -> None:
    """Raise UsageError where the video cannot go to stdout: it is a terminal, or a report goes there."""
    if os.isatty(sys.stdout.fileno()):
        raise UsageError("the video would go to a terminal; add | and a reader, or name a file with -o")
    for what, path in reports.items():
        if path in STDOUT_NAMES:
            raise UsageError(f"the video and {what} cannot both go to stdout; name a file for one")


def default_output(name: str, scale: int, codec: str | None = None) -> str:
    """`clip.mp4` -> `clip_2x.mp4` beside it; a folder, glob or pattern of images -> a folder beside it.

    An input that exists is what it is, whatever its name holds. A container that cannot hold what `codec`
    (None: the default) encodes becomes a .mkv.

    Raises:
        UsageError: the input is a pipe or a URL, which have no place of their own.
    """
    if name == "-" or (is_url(name) and not os.path.lexists(name) and not name.startswith("file:")):
        raise UsageError(f"the input {name} has no folder for an output; add -o OUT")
    path = Path(name.removeprefix("file:") if not os.path.lexists(name) else name)
    if path.is_dir() or (not os.path.lexists(path) and names_images(name)):
        folder = (path if path.is_dir() else path.parent).resolve()
        if not folder.name:
            raise UsageError(f"{folder} has no folder beside it for an output; add -o OUT")
        return str(folder.with_name(f"{folder.name}_{scale}x")) + "/"
    suffix = path.suffix if can_hold(path.suffix, codec) else HOLDS_ALL
    return str(path.with_name(f"{path.stem}_{scale}x{suffix}"))


def can_hold(suffix: str, codec: str | None) -> bool:
    """Whether FFmpeg writes a container of that suffix, with times, that takes what the encoder makes.

    It is asked by writing a header, to memory.
    """
    try:
        container = av.open(f"output{suffix}", "w").format
    except ValueError:
        return False
    if container.name.startswith(("image2", "rawvideo")) or container.name == PIPE_FORMATS["y4m"]:
        return False
    codec = codec or CONTAINER_CODECS.get(container.name, DEFAULT_CODEC)
    try:
        with create_media(io.BytesIO(), format_name=container.name) as trial:
            stream = trial.add_stream(codec, rate=24)
            if not isinstance(stream, av.VideoStream):
                return True  # opening the output says so
            stream.height, stream.width = 64, 64
            formats = stream.codec_context.codec.video_formats
            stream.pix_fmt = formats[0].name if formats else "yuv420p"
            trial.start_encoding()
    except UnknownCodecError:
        return True  # opening the output says so
    except (ValueError, FFmpegError):
        return False
    return True
