"""The folder in which an output is made: `.NAME.<when>-<random>.flashvsr-part` beside it, of mode 0700.

Nobody else can put a link into it. Whoever makes it holds the lock in it until it is gone, so what a killed
run left is told from what a living one writes.
"""

import contextlib
import errno
import json
import logging
import os
import re
import secrets
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from flashvsr_trt.errors import UsageError
from flashvsr_trt.files.renames import CONTENT, MERGE, finish_merge, is_bare, rename_new, unlink

if TYPE_CHECKING:
    from filelock import FileLock

LOG = logging.getLogger(__name__)

SUFFIX = ".flashvsr-part"
NAME_BYTES = 255
"""The longest name that filesystems take."""

MILLISECOND = 1e-3

YOUNG_SECONDS = 10
"""A staging folder may for a moment have no lock yet."""

OTHER_HOST_SECONDS = 24 * 3600
"""Locks may not reach from host to host: what another one has left alone for so long is left."""

_TOKEN = r"\.([0-9a-f]{12})-[0-9a-f]{12}"
_NAME = re.compile(rf"\..*{_TOKEN}{re.escape(SUFFIX)}", re.DOTALL)
_LOCK, _OWNER, _PREVIOUS = "lock", "owner.json", "previous"
_DOOMED = "removed"
_OWNER_BYTES = 4096

UNFINISHED: dict[str, "Staging"] = {}
"""The staging folders of this process by path, from before they are made until they are gone."""


class Staging:
    """A staging folder of this process. Use `open_staging` to make one.

    Attributes:
        folder: where the output will be.
        name: its name there.
        path: the staging folder.
        content: the file or folder that is being made.
        previous: where a folder that is replaced waits.
    """

    def __init__(self, folder: str, name: str) -> None:
        self.folder, self.name = os.path.realpath(folder or "."), name
        self.path = os.path.join(self.folder, staging_name(name))
        self.content = os.path.join(self.path, CONTENT)
        self.previous = os.path.join(self.path, _PREVIOUS)
        self.process = os.getpid()
        self._lock: FileLock | None = None

    def make(self) -> None:
        """Makes the folder and takes its lock. Raises OSError."""
        # Known before it is there: a signal may come at any moment.
        UNFINISHED[self.path] = self
        try:
            os.mkdir(self.path, 0o700)
            owner = {"target": self.name, "process": self.process, "host": socket.gethostname()}
            with open(os.path.join(self.path, _OWNER), "x", encoding="utf-8") as file:
                json.dump(owner, file)
            self._lock = take_lock(os.path.join(self.path, _LOCK))
            if self._lock is None:
                raise OSError(errno.EBUSY, "another process has locked it", self.path)
        except BaseException:
            self.remove()
            raise

    def remove(self) -> None:
        """Removes the folder with what is left in it. A second call does nothing."""
        if UNFINISHED.get(self.path) is not self:
            return
        try:
            _remove(self.path, self._lock)
        except OSError as error:
            LOG.warning("%s stays, and can be removed: %s", self.path, error.strerror)
        del UNFINISHED[self.path]

    def merge_into(self, folder: str, stale: list[str], overwrite: bool) -> None:
        """Move what was made into an existing folder, file by file.

        A note in the staging folder says that everything is there, so that what a killed run began is
        finished by `remove_leftovers`. Other files of the folder are not touched.

        Args:
            folder: the staging folder's own folder, or the one of its target's name beside it.
            stale: names in `folder` that go, where nothing new takes their place.

        Raises:
            FileExistsError: without `overwrite`, a name is taken; nothing was moved.
            OSError: the folder cannot be written. What was not moved stays in the staging folder, and the
                next run that writes there tries again.
        """
        names = sorted(os.listdir(self.content))
        for name in names:
            if os.path.isdir(os.path.join(folder, name)):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), os.path.join(folder, name))
        into = "" if folder == self.folder else os.path.basename(folder)
        note = {"into": into, "stale": sorted(set(stale) - set(names)), "overwrite": overwrite}
        path = os.path.join(self.path, MERGE)
        with open(path, "x", encoding="utf-8") as file:
            json.dump(note, file)
            file.flush()
            os.fsync(file.fileno())
        if overwrite:
            try:
                finish_merge(self.path, self.folder)
            except OSError:
                self.leave()
                raise
            except BaseException:  # Ctrl-C: what has begun is finished
                finish_merge(self.path, self.folder)
                raise
            return
        moved: list[str] = []
        try:
            for name in names:
                rename_new(os.path.join(self.content, name), os.path.join(folder, name))
                moved.append(name)
        except BaseException:
            for name in moved:
                os.replace(os.path.join(folder, name), os.path.join(self.content, name))
            os.unlink(path)
            raise
        os.unlink(path)

    def leave(self) -> None:
        """Leaves the folder for another run to settle."""
        if UNFINISHED.pop(self.path, None) is self and self._lock is not None:
            self._lock.release()


def open_staging(folder: str, name: str) -> Staging:
    """Make a staging folder for `name` in `folder`, and remove what killed runs left there.

    Raises:
        UsageError: another run writes the same name.
        OSError: the folder cannot be written.
    """
    staging = Staging(folder, name)
    remove_leftovers(staging.folder)
    staging.make()
    # Who began first is told by names, of a millisecond: it must be over, or a later one might come first.
    time.sleep(MILLISECOND)
    if process := _earlier_writer(staging):
        staging.remove()
        raise UsageError(
            f"{os.path.join(folder, name)} is being written by another run (process {process}); "
            "wait for it, or choose another name"
        )
    return staging


def is_unfinished(path: str) -> bool:
    place = os.path.realpath(path)
    return any(place.startswith(staging + os.sep) for staging in UNFINISHED)


def remove_unfinished() -> None:
    """Remove every staging folder of this process, when it ends early; none of its parent's."""
    for staging in list(UNFINISHED.values()):
        if staging.process == os.getpid():
            staging.remove()


def staging_name(name: str) -> str:
    """A new name, recognisable, random and not too long; those of one target sort by when they were made."""
    end = f".{time.time_ns() // 1_000_000:012x}-{secrets.token_hex(6)}{SUFFIX}"
    while len(os.fsencode(name)) > NAME_BYTES - len(end) - 1:
        name = name[:-1]
    return f".{name}{end}"


def leftovers(folder: str | os.PathLike) -> list[str]:
    """Staging folders right in `folder` that no living run owns: ours by name, owner and age."""
    found = []
    for path, lock in _left(folder):
        lock.release()
        found.append(path)
    return found


def remove_leftovers(folder: str | os.PathLike) -> list[str]:
    """Remove them; a replacement that was under way is finished or taken back first. What was removed."""
    removed = []
    for path, lock in _left(folder):
        # Another run may have removed it; one that cannot be removed hinders nobody.
        try:
            _settle(path, os.fspath(folder))
            _remove(path, lock)
        except (OSError, ValueError, KeyError, TypeError) as error:
            LOG.info("%s stays: %s", path, error)
            lock.release()
            continue
        LOG.info("removed what a killed run left: %s", path)
        removed.append(path)
    return removed


def _left(folder: str | os.PathLike) -> "Iterator[tuple[str, FileLock]]":
    """What killed runs left in a folder, each with its lock held."""
    for path in filter(_is_left, _stagings(folder)):
        if lock := take_lock(os.path.join(path, _LOCK)):
            yield path, lock


def _settle(path: str, folder: str) -> None:
    """Finish a merge that was under way; give a folder that was moved aside its name back."""
    if os.path.exists(os.path.join(path, MERGE)):
        finish_merge(path, folder)
    previous, name = os.path.join(path, _PREVIOUS), _owner_of(path).get("target")
    if isinstance(name, str) and is_bare(name) and os.path.lexists(previous):
        with contextlib.suppress(FileExistsError):
            rename_new(previous, os.path.join(folder, name))


def _stagings(folder: str | os.PathLike) -> list[str]:
    """Folders that have a staging folder's name and belong to this user, the oldest first."""
    try:
        entries = [entry for entry in os.scandir(folder) if _NAME.fullmatch(entry.name)]
    except OSError:
        return []  # what cannot be listed holds nothing that could be removed
    user = getattr(os, "geteuid", lambda: None)()
    found = []
    for entry in entries:
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode) and user in (None, status.st_uid):
                found.append(entry.path)
    return sorted(found, key=lambda path: (_made_at(path), path))


def _made_at(path: str) -> float:
    """Seconds since the epoch, from the name."""
    found = _NAME.fullmatch(os.path.basename(path))
    return int(found[1], 16) / 1000 if found else 0.0


def _is_left(path: str) -> bool:
    """Whether it is old enough to be what a killed run left, if its lock is free too."""
    if path in UNFINISHED:
        return False
    names = (_LOCK, CONTENT, _PREVIOUS, _DOOMED)
    locked, *filled = (os.path.lexists(os.path.join(path, name)) for name in names)
    on_this_host = _owner_of(path).get("host") == socket.gethostname()
    # Without a lock there is nothing in it yet, or any more.
    if (locked and on_this_host) or not (locked or any(filled)):
        return time.time() - _made_at(path) > YOUNG_SECONDS
    try:
        below = [os.path.join(top, name) for top, _, names in os.walk(path) for name in (*names, "")]
        touched = max(os.stat(place).st_mtime for place in (path, *below))
    except FileNotFoundError:
        return False
    return time.time() - touched > OTHER_HOST_SECONDS


def _earlier_writer(staging: Staging) -> int | None:
    """The process of a living run that began to write the same name before this one did."""
    for path in _stagings(staging.folder):
        if path == staging.path:
            return None
        owner = _owner_of(path)
        if owner.get("target") != staging.name or not os.path.exists(os.path.join(path, _LOCK)):
            continue
        if path in UNFINISHED:
            return os.getpid()
        lock = take_lock(os.path.join(path, _LOCK))
        if lock is None:
            return owner.get("process")
        lock.release()
    return None


def _owner_of(path: str) -> dict:
    """What the staging folder says of its owner; nothing when that cannot be read."""
    try:
        with open(os.path.join(path, _OWNER), encoding="utf-8") as file:
            owner = json.loads(file.read(_OWNER_BYTES))
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def take_lock(file: str | os.PathLike, seconds: float = 0) -> "FileLock | None":
    """A lock, held; None where another process, or this one, has it for longer. -1 waits for ever."""
    from filelock import FileLock, Timeout  # here, so that `--help` does not wait for it

    lock = FileLock(file, timeout=seconds)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


def _remove(path: str, lock: "FileLock | None") -> None:
    """The note of a merge goes first, as it speaks of the content; who owned it goes last."""
    unlink(path, MERGE)
    doomed = os.path.join(path, _DOOMED)
    for name in (_DOOMED, CONTENT, _PREVIOUS):
        part = os.path.join(path, name)
        if os.path.isdir(part) and not os.path.islink(part):
            # Under another name first: a thread that still writes pictures makes no more of them.
            os.rename(part, doomed)
            shutil.rmtree(doomed)
        else:
            unlink(path, name)
    if lock is not None:
        lock.release()
    unlink(path, _LOCK)
    unlink(path, _OWNER)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.rmdir(path)
