"""What is known of large files from an earlier look, so that gigabytes are not hashed at every start.

A note in the cache holds for a file's path, size, time and inode. Small files and files that were written a
moment ago are looked at every time; so is everything where the cache cannot be read or written.
"""

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
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


def sha256_of_file(file: BufferedReader, path: Path) -> str:
    """Hex digest of an open file's bytes, from its start."""

    def digest() -> str:
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()

    return remembered(os.fstat(file.fileno()), path, "sha256", digest)


def remembered(status: os.stat_result, path: Path, what: str, look: Callable[[], str]) -> str:
    """What `look` tells of a file, or told when the file had the same path, size, time and inode.

    Args:
        status: of the file, before it is looked at.
        what: names the question.
    """
    if status.st_size < REMEMBERED_BYTES:
        return look()
    state = [os.path.realpath(path), status.st_size, status.st_mtime_ns, status.st_ino, what]
    name = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32] + ".json"
    try:
        with (cache_folder(KIND) / name).open("rb") as note:
            known = json.loads(note.read(_NOTE_BYTES))
        if isinstance(known, list) and known[:-1] == state and isinstance(known[-1], str):
            return known[-1]
    except (FlashVSRError, OSError, ValueError, RecursionError) as error:
        LOG.debug("%s is looked at: %s", path, error)
    found = look()
    if time.time() - status.st_mtime > SETTLED_SECONDS:
        _remember(name, [*state, found])
    return found


def _remember(name: str, known: list) -> None:
    try:
        folder = cache_folder(KIND)
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / name, json.dumps(known), overwrite=True)
    except (FlashVSRError, OSError) as error:
        LOG.info("what was checked is not remembered: %s", error)
