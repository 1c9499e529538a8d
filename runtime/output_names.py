"""What an output is called where only its input or a folder is named, and what is refused before a run."""

import io
import os
import sys
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import urlsplit

import av
from av.codec.codec import UnknownCodecError
from av.error import FFmpegError

from flashvsr_trt.errors import UsageError
from flashvsr_trt.files.image_sequence import IMAGE_EXTENSIONS, names_images
from flashvsr_trt.files.targets import STANDARD_STREAM, check_outputs, identity, local_path, refuse_input
from flashvsr_trt.runtime.request import PIPE_FORMATS, RunOptions
from flashvsr_trt.runtime.video.encoder import CONTAINER_CODECS, DEFAULT_CODEC
from flashvsr_trt.runtime.video.image_output import is_image_output, names_folder, refuse_among_pictures
from flashvsr_trt.runtime.video.media_open import create_media, format_of_name, is_url

STDOUT = "/dev/stdout"
STDOUT_NAMES = ("-", "pipe:", "pipe:1", STDOUT)

Anywhere = TypeVar("Anywhere", bound=PurePath)

HOLDS_ALL = ".mkv"
"""For inputs whose own container is only read, or holds no modern video: .divx, .gif, .ogv, .y4m."""


def check_files(
    options: RunOptions, reports: Mapping[str, str | None] = MappingProxyType({}), makes_folder: bool = False
) -> None:
    """Raise UsageError where an output is the input or another output, or exists without `overwrite`.

    Args:
        reports: files that the caller writes: what each is called -> its name, None or "-" for none.
        makes_folder: whether the caller makes the output's folder; one that -o names is made anyway.
    """
    reports = {"--profile": options.profile, **reports}
    output = chosen_output(options)
    made = identity(str(Path(output).parent)) if makes_folder or is_folder_of_videos(options) else None
    for what, path in reports.items():
        folder = os.path.dirname(local_path(path or "")) or "."
        if not os.path.isdir(folder) and identity(folder) != made:
            raise UsageError(f"{what} {path} cannot be written: there is no folder {folder}")
    if output == STDOUT:
        check_stdout(reports)
    outputs = {"the output": output}
    if output and is_image_output(output):
        outputs = {}
        refuse_input("the output", output, [options.input])
        for what, path in reports.items():
            if path and path != STANDARD_STREAM:
                refuse_among_pictures(output, what, local_path(path))
    check_outputs(outputs | reports, [options.input], options.overwrite)


def chosen_output(options: RunOptions) -> str:
    """Where the video goes: as asked for, or beside the input. Stdout is STDOUT, by whatever name.

    In a folder with a slash a video gets the name that it would get beside its input; pictures are numbered.

    Raises:
        UsageError: the name is the input's to give, and a pipe has none.
    """
    word = "_side_by_side" if options.side_by_side else ""
    if options.output is None:
        return local_path(default_output(options.input, options.scale, options.codec, word))
    if options.output in STDOUT_NAMES:
        return STDOUT
    path = local_path(options.output)
    if not is_folder_of_videos(options):
        return path
    name = PurePath(urlsplit(options.input).path if is_remote(options.input) else local_path(options.input))
    if not name.name or options.input == STANDARD_STREAM:
        raise UsageError(f"the input {options.input} has no name for a video in {path}; name a file with -o")
    return os.path.join(path, upscaled_name(name, options.scale, options.codec, word).name)


def is_folder_of_videos(options: RunOptions) -> bool:
    """Whether -o ends in a slash, and the input is no sequence of pictures.

    A folder without the slash is one of numbered pictures, so that a command means the same a second time.
    """
    output = options.output
    if output is None or not output.endswith(("/", os.sep)) or not names_folder(local_path(output)):
        return False
    return bool(options.raw_size) or not _is_sequence(local_path(options.input))


def _is_sequence(path: str) -> bool:
    return os.path.isdir(path) or (not os.path.lexists(path) and names_images(path))


def is_remote(name: str) -> bool:
    """Whether an input is no file here, so that nothing lies beside it."""
    return is_url(name) and not os.path.lexists(name) and not name.startswith("file:")


def check_stdout(reports: dict[str, str | None]) -> None:
    """Raise UsageError where the video cannot go to stdout: it is a terminal, or a report goes there."""
    if os.isatty(sys.stdout.fileno()):
        raise UsageError("the video would go to a terminal; add | and a reader, or name a file with -o")
    for what, path in reports.items():
        if path in STDOUT_NAMES:
            raise UsageError(f"the video and {what} cannot both go to stdout; name a file for one")


def default_output(name: str, scale: int, codec: str | None = None, word: str = "") -> str:
    """`clip.mp4` -> `clip_2x.mp4` beside it; a folder, glob or pattern of images -> a folder beside it.

    `word` stands behind the scale. An input that exists is what it is, whatever its name holds.

    Raises:
        UsageError: the input is a pipe or a URL, which have no place of their own.
    """
    if name == STANDARD_STREAM or is_remote(name):
        raise UsageError(f"the input {name} has no folder for an output; add -o OUT")
    path = Path(name.removeprefix("file:") if not os.path.lexists(name) else name)
    if _is_sequence(str(path)):
        folder = (path if path.is_dir() else path.parent).resolve()
        if not folder.name:
            raise UsageError(f"{folder} has no folder beside it for an output; add -o OUT")
        return str(folder.with_name(f"{folder.name}_{scale}x{word}")) + "/"
    return str(upscaled_name(path, scale, codec, word))


def upscaled_name(path: Anywhere, scale: int, codec: str | None = None, word: str = "") -> Anywhere:
    """`clip.mp4` -> `clip_2x.mp4`, `photo.jpg` -> `photo_2x.png`.

    A container that cannot hold what `codec` (None: the default) encodes becomes a .mkv.
    """
    suffix = path.suffix if can_hold(path.suffix, codec) else HOLDS_ALL
    if path.suffix.lower() in IMAGE_EXTENSIONS:
        suffix = ".png"
    return path.with_name(f"{path.stem}_{scale}x{word}{suffix}")


def can_hold(suffix: str, codec: str | None) -> bool:
    """Whether FFmpeg writes a container of that suffix, with times, that takes what the encoder makes.

    It is asked by writing a header, to memory.
    """
    try:
        container = format_of_name(f"output{suffix}")
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
