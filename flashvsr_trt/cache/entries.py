"""An entry of the cache is made by one process while others wait, never changes, and heals.

The lock of an entry, and the marks of those who read it, are files in `.locks` beside it. A damaged entry
is renamed, not removed: another process may be reading it.
"""

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from flashvsr_trt.cache.folder import unwritable
from flashvsr_trt.errors import CacheError, FlashVSRError
from flashvsr_trt.files.staging import take_lock
from flashvsr_trt.notices import Notify

LOCKS = ".locks"

Entry = TypeVar("Entry")

_ASIDE = re.compile(r"(.+)\.damaged-[0-9a-f]{12}-[0-9a-f]{8}", re.DOTALL)
_HELD: dict[Path, object] = {}
"""Locks of what this process reads; the system frees them when it ends."""


def find_or_make(
    folder: Path, read: Callable[[], Entry | None], make: Callable[[], Entry], notify: Notify
) -> Entry:
    """The entry that `read` finds; else the one that `make` makes in `folder`, once for all processes.

    Args:
        read: the whole entry, or None where there is none. What it raises means that the entry is damaged.

    Raises:
        CacheError: the cache cannot be written.
        FlashVSRError: as `make`.
    """
    mark_in_use(folder)
    try:
        found = read()
    except FlashVSRError:
        found = None  # said once the lock is held, if it is still so
    if found is not None:
        return found
    with making(folder, notify):
        try:
            found = read()
        except FlashVSRError as error:
            set_aside(folder, error, notify)
            found = None
        if found is None:
            found = make()
    mark_in_use(folder)
    return found


@contextmanager
def making(folder: Path, notify: Notify) -> Iterator[None]:
    """Holds the lock of an entry; says in one line when another process has it.

    Raises:
        CacheError: the cache cannot be written.
    """
    try:
        file = _lock_path(folder, "lock")
        lock = take_lock(file)
        if lock is None:
            notify(f"another process is making {folder.name}: waiting for it")
            lock = take_lock(file, seconds=-1)
    except (OSError, NotImplementedError) as error:
        raise unwritable(folder.parent, error) from error
    try:
        yield
    finally:
        if lock:
            lock.release()


def set_aside(folder: Path, reason: object, notify: Notify) -> Path | None:
    """Rename a damaged entry, so that it can be made again, and say so; None where there is none.

    Raises:
        CacheError: it cannot be renamed.
    """
    if not os.path.lexists(folder):
        return None
    aside = folder.with_name(
        f"{folder.name}.damaged-{time.time_ns() // 1_000_000:012x}-{secrets.token_hex(4)}"
    )
    try:
        os.rename(folder, aside)
    except OSError as error:
        raise CacheError(
            f"{reason}; and it cannot be set aside ({error.strerror}): remove {folder}"
        ) from error
    notify(f"{reason}; it is set aside as {aside.name} and made again")
    return aside


def is_set_aside(name: str) -> bool:
    """Whether a name is one that `set_aside` gave."""
    return own_name(name) != name


def own_name(name: str) -> str:
    """The name that an entry had before it was set aside; that of any other as it is."""
    found = _ASIDE.fullmatch(name)
    return found[1] if found else name


def mark_in_use(folder: Path) -> None:
    """Keep `prune` from an entry for as long as this process lives, where the cache can be written."""
    if folder not in _HELD:
        with suppress(OSError, NotImplementedError):
            _HELD[folder] = take_lock(_lock_path(folder, f"{os.getpid()}-{secrets.token_hex(4)}.reader"))


def is_in_use(folder: Path) -> bool:
    """Whether another process reads or makes an entry; marks that dead processes left are removed."""
    prefix = f"{folder.name}."
    for path in sorted((folder.parent / LOCKS).glob("*")):
        if not path.name.startswith(prefix) or path.suffix not in (".lock", ".reader"):
            continue
        lock = take_lock(path)
        if lock is None:
            return True
        lock.release()
        if path.suffix == ".reader":
            path.unlink(missing_ok=True)
    return False


def _lock_path(folder: Path, end: str) -> Path:
    locks = folder.parent / LOCKS
    locks.mkdir(parents=True, exist_ok=True)
    return locks / f"{folder.name}.{end}"
