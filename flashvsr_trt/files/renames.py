"""Renames that lose nothing, also into a folder that is there, and what makes them outlast a power cut."""

import contextlib
import ctypes
import errno
import json
import os
import sys
from functools import cache

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
