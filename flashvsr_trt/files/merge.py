"""Moving what was made into a folder that is there, so that what a killed run began can be finished."""

import contextlib
import errno
import json
import os
from typing import Protocol

from flashvsr_trt.files.renames import rename_new

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
