"""The one way to write: a file or folder appears under its name only when it is whole.

It is made in a staging folder beside its name (`staging.py`), brought to the disk and renamed. Nothing else
is ever deleted or truncated. A symbolic link under the name is replaced; what it points to is left alone. A
pipe or a device, such as /dev/stdout, is written as it is: it has no content to lose.
"""

import errno
import io
import os
import re
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from flashvsr_trt.errors import FileError, FlashVSRError, UsageError
from flashvsr_trt.files.renames import rename_new, swap_folders, sync_file, sync_folder, sync_tree
from flashvsr_trt.files.staging import Staging, is_unfinished, open_staging
from flashvsr_trt.signals import signals_wait

_STANDARD = {"/dev/stdout": 1, "/dev/stderr": 2}

NO_FOLDER = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EEXIST)
"""What the system says where a name's folder is not there, is no folder, or cannot be written."""

Owns = Callable[[str], bool]
"""Whether a name in a folder belongs to the output."""

FINISHED: list[str] = []
"""What this process has given its final name, in order."""


class PartFile(io.FileIO):
    """An unbuffered file that writes all of what it is given, as FFmpeg expects of it."""

    def write(self, data: bytes) -> int:
        """Writes `data` whole and returns its length. Raises OSError when the disk is full."""
        rest = memoryview(data).cast("B")
        while rest:
            rest = rest[super().write(rest) :]
        return memoryview(data).nbytes


class _Unfinished:
    """What is being made: finished once, or removed. Leaving its `with` block unfinished removes it."""

    def __init__(self, path: str) -> None:
        self.path = path
        # A video is finished in the thread that encodes, and removed in the one that gets a signal.
        self._turn = threading.RLock()
        self._open = True

    def finish(self) -> None:
        """Completes it and gives it its final name.

        Raises:
            UsageError: the name was taken meanwhile, and may not be overwritten.
            OSError: it cannot be written.
        """
        with self._turn, signals_wait():
            if not self._open:
                raise ValueError(f"{self.path} is finished or removed already")
            try:
                self._complete()
            except FileExistsError as error:
                raise UsageError(
                    f"{self.path} came into being meanwhile and is kept; "
                    "choose another name or overwrite it (--overwrite)"
                ) from error
            self._open = False
            if not is_unfinished(self.path):
                FINISHED.append(self.path)
            self._remove()

    def abort(self) -> None:
        """Removes it. Nothing happens after `finish`."""
        with self._turn:
            if self._open:
                self._open = False
                self._remove()

    def _complete(self) -> None:
        raise NotImplementedError

    def _remove(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()


class NewFile(_Unfinished):
    """A file that is being made. Use `new_file` to make one.

    Attributes:
        path: its final name.
        part: where it is until then, for a library that writes to a name.
        file: open for writing, seekable.
    """

    def __init__(self, path: str, staging: Staging, overwrite: bool) -> None:
        super().__init__(path)
        self._staging, self._overwrite = staging, overwrite
        self.part = staging.content
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        self.file = PartFile(os.open(self.part, flags, 0o666), "w")
        self._mode = os.stat(self.part).st_mode

    def _complete(self) -> None:
        self.file.close()
        # A library may have put a file of its own there, which only the user can read.
        os.chmod(self.part, stat.S_IMODE(self._mode))
        sync_file(self.part)
        rename = os.replace if self._overwrite else rename_new
        rename(self.part, os.path.join(self._staging.folder, self._staging.name))
        sync_folder(self._staging.folder)

    def _remove(self) -> None:
        self.file.close()
        self._staging.remove()


class OpenedFile(_Unfinished):
    """A pipe or a device that is there: what is written to it is out at once, and nothing is renamed."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.part = path
        number = descriptor(path)
        # Not truncated: a shell may have opened the file behind it for appending.
        self.file = PartFile(os.open(path, os.O_WRONLY) if number is None else os.dup(number), "w")

    def _remove(self) -> None:
        self.file.close()

    _complete = _remove


class NewFolder(_Unfinished):
    """A folder that is being made. Use `new_folder` to make one.

    Attributes:
        path: its final name.
        part: where it is until then.
    """

    def __init__(self, path: str, staging: Staging, target: str, overwrite: bool, owns: Owns) -> None:
        super().__init__(path)
        self._staging, self._target, self._overwrite, self._owns = staging, target, overwrite, owns
        self.part = staging.content
        os.mkdir(self.part)

    def _complete(self) -> None:
        sync_tree(self.part)
        names = _names(self._target)
        stale = [name for name in names or () if self._owns(name)] if self._overwrite else []
        if names is None:
            rename_new(self.part, self._target)
        elif self._staging.folder != self._target and len(stale) == len(names):
            shutil.copymode(self._target, self.part)
            replaced = swap_folders(self.part, self._target, self._staging.previous)
            # What another program put into the folder in the moment of the swap goes into the new one.
            for name in _names(replaced) or ():
                if not self._owns(name):
                    rename_new(os.path.join(replaced, name), os.path.join(self._target, name))
        else:
            self._staging.merge_into(self._target, stale, self._overwrite)
            sync_folder(self._target)
        sync_folder(self._staging.folder)

    def _remove(self) -> None:
        self._staging.remove()


def new_file(path: str | os.PathLike, *, overwrite: bool = False) -> NewFile | OpenedFile:
    """A file to write; `finish` gives it its name. A pipe or device that is there is opened as it is.

    Raises:
        UsageError: there is something under that name that may not be replaced, or another run writes it.
        OSError: it cannot be written; see `write_errors`.
    """
    path = os.fspath(path)
    check_target(path, overwrite)
    if is_stream(path):
        return OpenedFile(path)
    folder, name = os.path.split(path)
    staging = open_staging(folder, name)
    try:
        return NewFile(path, staging, overwrite)
    except BaseException:
        staging.remove()
        raise


def new_folder(
    path: str | os.PathLike, *, overwrite: bool = False, owns: Owns = lambda name: True
) -> NewFolder:
    """A folder to fill; `finish` gives it its name, or puts what is in it into the folder that is there.

    A folder that is there and holds nothing but what `owns` names, or nothing at all, is swapped for the new
    one in one step. In any other the files are moved to their places one by one, and those that `owns` names
    and that have no successor go. So they are in a folder that cannot be swapped: the one the user is in, a
    mounted one, or one whose parent cannot be written. A link to a folder means the folder.

    Args:
        owns: whether a name in the folder belongs to the output.

    Raises:
        UsageError: there is a file under that name, a folder that has files which `owns` names and may not be
            overwritten, or another run writes it.
        OSError: it cannot be written; see `write_errors`.
    """
    path = os.fspath(path)
    target = os.path.realpath(path)
    names = _names(target)
    if names is None and os.path.lexists(target):
        raise UsageError(f"{path} is a file, and a folder is wanted; choose another name")
    mine = sorted(name for name in names or () if owns(name))
    if mine and not overwrite:
        raise UsageError(
            f"{os.path.join(path, mine[0])} exists already; choose another folder or overwrite (--overwrite)"
        )
    folder, name = os.path.split(target)
    user_inside = os.path.commonpath((target, os.path.realpath("."))) == target
    fixed = user_inside or os.path.ismount(target) or not os.access(folder, os.W_OK | os.X_OK)
    inside = names is not None and (len(mine) < len(names) or fixed)
    staging = open_staging(target if inside else folder, name)
    try:
        return NewFolder(path, staging, target, overwrite, owns)
    except BaseException:
        staging.remove()
        raise


def check_target(path: str, overwrite: bool) -> None:
    """Raise UsageError where no file can be put: on a folder, a block device, or a file to be kept."""
    if not os.path.basename(path):
        raise UsageError(f"'{path}' names no file; give it a name")
    if is_stream(path):
        return
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder, and a file is wanted; choose another name")
    if os.path.exists(path) and not os.path.isfile(path):
        raise UsageError(f"{path} is no file that can be written; choose another name")
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{path} exists already; choose another name or overwrite it (--overwrite)")


def is_stream(path: str) -> bool:
    """Whether it takes what is written to it: a pipe, a device such as /dev/null, or an open descriptor."""
    if descriptor(path) is not None:
        return True
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def descriptor(path: str) -> int | None:
    """The number that /dev/stdout or /dev/fd/3 stands for."""
    if path in _STANDARD:
        return _STANDARD[path]
    found = re.fullmatch(r"(?:/dev|/proc/self)/fd/(\d+)", path)
    return int(found.group(1)) if found else None


@contextmanager
def whole_folder(path: Path, kind: type[FlashVSRError]) -> Iterator[Path]:
    """A folder that takes the name `path` when the block ends, its parents made; it goes away if that fails.

    Raises `kind` where it cannot be written, and as `new_folder`.
    """
    with write_errors(path, kind):
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(path) as made:
            yield Path(made.part)
            made.finish()


def write_bytes(path: str | os.PathLike, content: bytes, *, overwrite: bool = False) -> None:
    """Write a file whole, or not at all. Raises as `new_file` and its `finish`."""
    with new_file(path, overwrite=overwrite) as file:
        file.file.write(content)
        file.finish()


def write_text(path: str | os.PathLike, text: str, *, overwrite: bool = False) -> None:
    """As `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode(), overwrite=overwrite)


@contextmanager
def new_report(path: str, *, overwrite: bool = False) -> Iterator[Callable[[str], None]]:
    """Gives `write(text)` for a file that is opened now, before the work that it reports, and whole then.

    Raises FileError where it cannot be written, and as `new_file`.
    """
    with write_errors(path):
        file = new_file(path, overwrite=overwrite)

    def write(text: str) -> None:
        with write_errors(path):
            file.file.write(text.encode("utf-8", "backslashreplace"))
            file.finish()

    with file:
        yield write


@contextmanager
def write_errors(path: str | os.PathLike, kind: type[FlashVSRError] = FileError) -> Iterator[None]:
    """Turns what the system or FFmpeg says while `path` is written into an error of this kind."""
    try:
        yield
    except OSError as error:  # FFmpeg's own errors of the system are OSErrors too
        reason = error.strerror or str(error)
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            advice = "no space is left for it; free some or write elsewhere"
        elif error.errno == errno.EPIPE:
            advice = "its reader has ended"
        elif error.errno == errno.ENAMETOOLONG:
            advice = "choose a shorter name"
        elif error.errno in NO_FOLDER:
            folder = os.path.dirname(os.fspath(path)) or "."
            advice = f"check that the folder {folder} exists and can be written"
        else:
            advice = "check the disk, and a video's encoder options"
        raise kind(f"{path} cannot be written ({reason}): {advice}; nothing unfinished is left") from error


def _names(folder: str) -> list[str] | None:
    """What a folder holds; None where there is none."""
    return os.listdir(folder) if os.path.isdir(folder) else None
