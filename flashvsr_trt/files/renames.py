"""Renames that lose nothing, also into a folder that is there, and what makes them outlast a power cut."""

import contextlib
import ctypes
import errno
import json
import os
import sys
from functools import cache
from typing import Protocol

_AT_FDCWD = -100
_NOREPLACE, _EXCHANGE = 1, 2
"""Flags of Linux's renameat2(2)."""

_NO_SUCH_CALL = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)
"""What renameat2 and link say on a filesystem that cannot do what was asked."""


def rename_new(source: str, target: str) -> None:
    """Give a file or folder a name that is free, in one step.

    Linux has a call for it. Elsewhere, and on filesystems without it, a file gets the name by a hard link and
    a folder by a rename over an empty one that is made for it. Where there are no hard links either, an empty
    file reserves the name, and is replaced at once.

    Raises:
        FileExistsError: the name is taken; both are as before.
        OSError: it cannot be renamed.
    """
    if os.name == "nt":
        os.rename(source, target)  # Windows refuses by itself
    elif _renameat2(source, target, _NOREPLACE):
        return
    elif os.path.isdir(source):
        os.mkdir(target)
        os.rename(source, target)
    else:
        _link_or_reserve(source, target)


def _link_or_reserve(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_SUCH_CALL:
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(source, target)
    else:
        os.unlink(source)


def swap_folders(new: str, target: str, previous: str) -> str:
    """Put the folder `new` in the place of `target`; where the old one is now.

    One step on Linux. Elsewhere two: the old one waits at `previous`, and comes back when the second fails.

    Raises:
        OSError: nothing was swapped.
    """
    if _renameat2(new, target, _EXCHANGE):
        return new
    os.rename(target, previous)
    try:
        rename_new(new, target)
    except BaseException:
        os.rename(previous, target)
        raise
    return previous


def sync_file(path: str) -> None:
    # Windows wants one that is open for writing; elsewhere it may be a file that only can be read.
    _sync(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)


def sync_folder(path: str) -> None:
    """Wait until a folder's names are on the disk. Windows cannot and need not open one for that."""
    if os.name != "nt":
        _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def sync_tree(path: str) -> None:
    for folder, _, names in os.walk(path):
        for name in names:
            place = os.path.join(folder, name)
            if not os.path.islink(place):
                sync_file(place)
        sync_folder(folder)


def _sync(path: str, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of filesystems that have no such thing
            raise
    finally:
        os.close(descriptor)


def _renameat2(source: str, target: str, flags: int) -> bool:
    """False where there is no such call, or not for this filesystem."""
    call = _linux_call()
    if call is None:
        return False
    if call(_AT_FDCWD, os.fsencode(source), _AT_FDCWD, os.fsencode(target), flags) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_SUCH_CALL:
        return False
    raise OSError(code, os.strerror(code), source, None, target)


@cache
def _linux_call():
    if sys.platform != "linux":
        return None
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is not None:
        call.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
        call.restype = ctypes.c_int
    return call


CONTENT, MERGE = "content", "merge.json"
"""In a staging folder: what was made, and the note of a merge that is under way."""


class Staged(Protocol):
    """What is moved: a staging folder, what was made in it, and the folder that it is for."""

    folder: str
    path: str
    content: str

    def leave(self) -> None: ...


def merge_into(staging: Staged, folder: str, stale: list[str], overwrite: bool) -> None:
    """Move what is in the staging folder's content into an existing folder, file by file.

    A note in the staging folder says that everything is there, so that what a killed run began is finished by
    `remove_leftovers`. Other files of the folder are not touched.

    Args:
        folder: the staging folder's own folder, or the one of its target's name beside it.
        stale: names in `folder` that go, where nothing new takes their place.

    Raises:
        FileExistsError: without `overwrite`, a name is taken; nothing was moved.
        OSError: the folder cannot be written. What was not moved stays in the staging folder, and the next
            run that writes there tries again.
    """
    names = sorted(os.listdir(staging.content))
    for name in names:
        if os.path.isdir(os.path.join(folder, name)):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.path.join(folder, name))
    into = "" if folder == staging.folder else os.path.basename(folder)
    note = {"into": into, "stale": sorted(set(stale) - set(names)), "overwrite": overwrite}
    path = os.path.join(staging.path, MERGE)
    with open(path, "x", encoding="utf-8") as file:
        json.dump(note, file)
        file.flush()
        os.fsync(file.fileno())
    if overwrite:
        try:
            finish_merge(staging.path, staging.folder)
        except OSError:
            staging.leave()
            raise
        except BaseException:  # Ctrl-C: what has begun is finished
            finish_merge(staging.path, staging.folder)
            raise
        return
    moved: list[str] = []
    try:
        for name in names:
            rename_new(os.path.join(staging.content, name), os.path.join(folder, name))
            moved.append(name)
    except BaseException:
        for name in moved:
            os.replace(os.path.join(folder, name), os.path.join(staging.content, name))
        os.unlink(path)
        raise
    os.unlink(path)


def finish_merge(path: str, folder: str) -> None:
    """Move what the note in the staging folder `path` speaks of into `folder`.

    Names come from the staging folder, and are bare: none leads out of the folder it lies in.

    Raises:
        OSError: a file cannot be moved.
        ValueError: the note leads out of its folder.
    """
    with open(os.path.join(path, MERGE), encoding="utf-8") as file:
        note = json.load(file)
    into, stale, content = note["into"], note["stale"], os.path.join(path, CONTENT)
    if into != "":
        folder = os.path.join(folder, str(into))
    if not all(is_bare(name) for name in (into or CONTENT, *stale)) or os.path.islink(folder):
        raise ValueError(f"{MERGE} leads out of its folder")
    rename = os.replace if note["overwrite"] else rename_new
    for name in sorted(os.listdir(content)):
        with contextlib.suppress(*(() if note["overwrite"] else (FileExistsError,))):
            rename(os.path.join(content, name), os.path.join(folder, name))
    for name in stale:
        unlink(folder, name)
    os.unlink(os.path.join(path, MERGE))


def is_bare(name: object) -> bool:
    """Whether a name is one of a file in a folder, and no way out of it."""
    return isinstance(name, str) and name not in ("", ".", "..") and not {"/", "\\", os.sep} & set(name)


def unlink(folder: str, name: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(os.path.join(folder, name))
