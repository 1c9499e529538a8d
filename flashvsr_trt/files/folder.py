"""Files that a manifest names: bare names inside its folder, opened so that no link leads out of it."""

import hashlib
import json
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from flashvsr_trt.cache.folder import cache_folder
from flashvsr_trt.errors import FlashVSRError
from flashvsr_trt.files.new import write_text

LOG = logging.getLogger(__name__)

KIND = "checked"

REMEMBERED_BYTES = 4 << 20
"""Smaller files take no time worth saving."""

SETTLED_SECONDS = 5
"""A file that is younger may be written again within one tick of its time."""

_NOTE_BYTES = 4096
_TOLD: dict[str, str] = {}
"""What this process has looked at itself."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")
_WINDOWS_DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_NO_LINKS_NO_WAITING = ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY")
_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in _NO_LINKS_NO_WAITING)


class BadNameError(ValueError):
    """A name that is no bare file name, or that two files have."""


class BadFileError(ValueError):
    """A file that is missing, no plain file, or has other bytes than were written."""


@dataclass(frozen=True)
class NamedFile:
    """A file by its name in the folder, with what was written into it."""

    name: str
    sha256: str
    size_bytes: int


def describe_file(path: Path) -> NamedFile:
    return NamedFile(path.name, sha256_of(path), path.stat().st_size)


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_names(names: Iterable[str], reserved: Iterable[str] = ()) -> None:
    """Raise BadNameError unless every name is a bare file name, and no two are one, whatever their case.

    Letters, digits, `.`, `_` and `-` only, so no name leads out of a folder on any system.
    """
    seen = {name.casefold() for name in reserved}
    for name in names:
        if not _NAME.fullmatch(name) or name.endswith(".") or _WINDOWS_DEVICES.fullmatch(name):
            raise BadNameError(f"{name!r:.80} is no bare file name")
        if name.casefold() in seen:
            raise BadNameError(f"{name!r:.80} is the name of two files")
        seen.add(name.casefold())


def open_file(folder: Path, name: str) -> BufferedReader:
    """Open a plain file right inside a folder, for reading; a link is refused, wherever it leads.

    Raises:
        FileNotFoundError, OSError: it is missing, or cannot be read.
        BadFileError: it is a link, a folder, a pipe or a device.
    """
    path = folder / name
    if path.is_symlink():
        raise BadFileError(f"{path} is a symbolic link, which may lead out of its folder: put the file there")
    file = os.open(path, _FLAGS)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise BadFileError(f"{path} is no plain file")
        return os.fdopen(file, "rb")
    except BaseException:
        os.close(file)
        raise


def read_file(folder: Path, name: str, limit: int) -> bytes:
    """All bytes of such a file. Raises as `open_file`, and BadFileError where it has more than `limit`."""
    with open_file(folder, name) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise BadFileError(f"{folder / name} has {size:,} bytes, and {limit:,} are the most")
        raw = file.read(limit + 1)
    if len(raw) > limit:
        raise BadFileError(f"{folder / name} grows while it is read")
    return raw


def check_size(folder: Path, file: NamedFile) -> None:
    """Raise BadFileError unless a file is there, is a plain one and has its size."""
    try:
        status = os.lstat(folder / file.name)
    except OSError as error:
        raise BadFileError(f"{folder} lacks {file.name} ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise BadFileError(f"{folder / file.name} is no plain file: a link may lead out of its folder")
    if status.st_size != file.size_bytes:
        raise BadFileError(
            f"{folder / file.name} is truncated or changed: it has {status.st_size:,} bytes and had "
            f"{file.size_bytes:,}"
        )


def read_checked(folder: Path, file: NamedFile) -> bytes:
    """A file's bytes, which are those that were written. Raises BadFileError."""
    check_size(folder, file)
    try:
        raw = read_file(folder, file.name, file.size_bytes)
    except OSError as error:
        raise BadFileError(f"{folder / file.name} cannot be read ({error.strerror})") from error
    _check_digest(folder, file, hashlib.sha256(raw).hexdigest())
    return raw


def _check_digest(folder: Path, file: NamedFile, digest: str) -> None:
    if digest != file.sha256:
        raise BadFileError(f"{folder / file.name} was changed: its sha256 is not that of the manifest")


def check_contents(folder: Path, file: NamedFile) -> None:
    """Raise BadFileError unless a file has the bytes that were written, as far as is `remembered`."""
    check_size(folder, file)
    try:
        with open_file(folder, file.name) as opened:
            digest = sha256_of_file(opened, folder / file.name)
    except OSError as error:
        raise BadFileError(f"{folder / file.name} cannot be read ({error.strerror})") from error
    _check_digest(folder, file, digest)


def sha256_of_path(path: Path) -> str:
    """As `sha256_of_file`. Raises OSError."""
    with path.open("rb") as file:
        return sha256_of_file(file, path)


def sha256_of_file(file: BufferedReader, path: Path) -> str:
    """Hex digest of an open file's bytes, from its start."""

    def digest() -> str:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()

    return remembered(os.fstat(file.fileno()), path, "sha256", digest)


def remembered(status: os.stat_result, path: Path, what: str, look: Callable[[], str]) -> str:
    """What `look` tells of a file, or told when the file had the same path, size, times and inode.

    So gigabytes are not hashed at every start. Small files, and files that were written a moment ago, are
    looked at every time; so is everything, once a process, where the cache of the notes cannot be used.
    The time of a change cannot be set back, but a hard link sets it too: it counts for files of one name.

    Args:
        status: of the file, before it is looked at.
        what: names the question.
    """
    if status.st_size < REMEMBERED_BYTES:
        return look()
    changed = status.st_ctime_ns if status.st_nlink == 1 else None
    state = [os.path.realpath(path), status.st_size, status.st_mtime_ns, changed, status.st_ino, what]
    name = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32] + ".json"
    if name in _TOLD:
        return _TOLD[name]
    try:
        with (cache_folder(KIND) / name).open("rb") as note:
            known = json.loads(note.read(_NOTE_BYTES))
        if isinstance(known, list) and known[:-1] == state and isinstance(known[-1], str):
            return known[-1]
    except (FlashVSRError, OSError, ValueError, RecursionError) as error:
        LOG.debug("%s is looked at: %s", path, error)
    found = look()
    if time.time() - status.st_mtime > SETTLED_SECONDS:
        _TOLD[name] = found
        _remember(name, [*state, found])
    return found


def _remember(name: str, known: list) -> None:
    try:
        folder = cache_folder(KIND)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, json.dumps(known), overwrite=True)
    except (FlashVSRError, OSError) as error:
        LOG.info("what was checked is not remembered: %s", error)
