"""What a folder holds, to be compared before and after; filesystems that have not every call."""

import errno
import os
from pathlib import Path

from flashvsr_trt.files import renames


def refuse_links(*_, **__):
    """`os.link` on a filesystem without hard links."""
    raise OSError(errno.EPERM, "no hard links here")


def only_links(patch):
    """No call of Linux's own."""
    patch.setattr(renames, "_linux_call", lambda: None)


def neither(patch):
    """Nor hard links."""
    only_links(patch)
    patch.setattr(os, "link", refuse_links)


FILESYSTEMS = {"renameat2": lambda patch: None, "links": only_links, "neither": neither}


def tree(folder: Path) -> dict[str, bytes | str | None]:
    """Relative path -> bytes of a file, None for a folder, "-> TARGET" for a link, "special" for the rest."""
    return {str(path.relative_to(folder)): _content(path) for path in sorted(folder.rglob("*"))}


def _content(path: Path) -> bytes | str | None:
    if path.is_symlink():
        return f"-> {path.readlink()}"
    if path.is_dir():
        return None
    return path.read_bytes() if path.is_file() else "special"


def numbered(name):
    """Whether a name is of a sequence of pictures."""
    return name.endswith(".png") and name[:-4].isdigit()


def fill(folder, *names):
    """Files in a folder that is being made."""
    for name in names:
        Path(folder.part, name).write_text("new")
