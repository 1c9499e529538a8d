"""The outputs of a command, checked against its inputs and each other before any work begins."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from flashvsr_trt.errors import UsageError, VideoError
from flashvsr_trt.files.image_sequence import find_images
from flashvsr_trt.files.new import check_target, descriptor, is_stream

STANDARD_STREAM, STDOUT = "-", 1


def local_path(name: str) -> str:
    """The path that FFmpeg's `file:` URL means, or `name` as it is."""
    return name.removeprefix("file:")


def check_outputs(
    outputs: Mapping[str, str | os.PathLike | None], inputs: Iterable[str], overwrite: bool
) -> None:
    """Refuse what would lose a file.

    Args:
        outputs: what each is called in an error ("--json") -> its file; "-" is stdout, None is none.
        inputs: videos, folders, globs and patterns of images.

    Raises:
        UsageError: a file is an input, another output or its folder, by whatever name; it exists, without
            `overwrite`; it has no name; or it is stdout, which cannot be written.
    """
    named = {what: local_path(os.fspath(path)) for what, path in outputs.items() if path is not None}
    for what, path in named.items():
        if path == "":
            raise UsageError(f"{what} '' names no file; give it a name, or leave the option out")
        if (path == STANDARD_STREAM or descriptor(path) == STDOUT) and not _takes_output(STDOUT):
            raise UsageError(f"{what} would go to stdout, which cannot be written; name a file instead")
    files = {what: path for what, path in named.items() if path != STANDARD_STREAM}
    seen: dict[tuple, str] = {}
    for what, path in files.items():
        refuse_input(what, path, inputs)
        other = seen.setdefault(identity(path), what)
        if other != what and not is_stream(path):
            raise UsageError(f"{what} {path} is the file of {other} too; give each a file of its own")
    for what, path in files.items():
        for folder in Path(os.path.realpath(path)).parents:
            if other := seen.get(identity(str(folder))):
                raise UsageError(f"{other} {folder} is the folder of {what} {path}; give one another name")
    for path in files.values():
        check_target(path, overwrite)


def _takes_output(number: int) -> bool:
    """Whether a descriptor is open for writing; nothing is written."""
    try:
        os.write(number, b"")
    except OSError:
        return False
    return True


def refuse_input(what: str, path: str, inputs: Iterable[str]) -> None:
    """Raise UsageError where a file or folder is an input: by path, symbolic or hard link, or as one of its
    images."""
    found = identity(path)
    for name in inputs:
        files = [name] if os.path.isdir(path) and identity(local_path(name)) == found else input_files(name)
        if any(identity(file) == found for file in files):
            where = "the input" if len(files) == 1 else "among the input's files"
            raise UsageError(f"{what} {path} is {where}; give it another name")


def input_files(name: str) -> list[str]:
    """The files an input is read from, as far as they are local."""
    if name == STANDARD_STREAM:
        return []
    path = local_path(name)
    try:
        return find_images(path) or [path]
    except VideoError:  # opening it says what is wrong
        return [path]


def identity(path: str) -> tuple:
    """Equal for all names of a file: of the file where there is one, else of the name it would get."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return (os.path.normcase(os.path.realpath(path)),)
    return status.st_dev, status.st_ino
