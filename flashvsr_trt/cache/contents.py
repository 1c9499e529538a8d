"""What is in the cache: entries by kind, with sizes and ages, and which of them are ours to remove."""

import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from flashvsr_trt.bundle import FORMAT as BUNDLE_FORMAT
from flashvsr_trt.bundle import MANIFEST as BUNDLE_MANIFEST
from flashvsr_trt.cache.entries import is_in_use, is_set_aside, making, own_name
from flashvsr_trt.engines.flavours import FLAVOURS
from flashvsr_trt.engines.manifest import FORMAT as ENGINE_FORMAT
from flashvsr_trt.engines.manifest import MANIFEST as ENGINE_MANIFEST
from flashvsr_trt.errors import CacheError
from flashvsr_trt.files.folder import BadFileError, read_file
from flashvsr_trt.files.manifest_reader import MANIFEST_BYTES, BadManifestError, parse_object
from flashvsr_trt.files.staging import leftovers, remove_leftovers
from flashvsr_trt.kernels.manifest import FORMAT as KERNEL_FORMAT
from flashvsr_trt.kernels.manifest import MANIFEST as KERNEL_MANIFEST

WHOLE, SET_ASIDE, UNFINISHED = "whole", "set aside", "unfinished"

_PRECISIONS = "(bf16|fp16|fp32)"
_FLAVOURS = "|".join(FLAVOURS)
_STREAM = r"[a-z0-9.-]+-\d+x\d+"
_KNOWN = {
    "bundles": (
        re.compile(rf"{_STREAM}-[a-z-]+-{_PRECISIONS}(-[0-9a-f]{{16}}){{1,2}}"),
        BUNDLE_MANIFEST,
        BUNDLE_FORMAT,
    ),
    "engines": (
        re.compile(rf"{_STREAM}-(\dx|tile)-[a-z-]+-{_PRECISIONS}-({_FLAVOURS})-\d+\.\d-[0-9a-f]{{32}}"),
        ENGINE_MANIFEST,
        ENGINE_FORMAT,
    ),
    "kernels": (re.compile(rf"sm_\d+-{_PRECISIONS}-d\d+"), KERNEL_MANIFEST, KERNEL_FORMAT),
}
_TIMINGS = re.compile(rf"({_FLAVOURS})-.+\.cache")


@dataclass(frozen=True)
class CacheEntry:
    """Something in the cache that is ours. `age_seconds` is since it was written."""

    kind: str
    path: Path
    state: str
    size_bytes: int
    age_seconds: float

    def as_dict(self) -> dict:
        shown = {"name": self.path.name, "path": str(self.path), "age_seconds": round(self.age_seconds)}
        return vars(self) | shown


def list_entries(folders: dict[str, Path]) -> list[CacheEntry]:
    """What is ours in the folder of each kind: whole entries, damaged ones set aside, and unfinished ones.

    An entry is ours by its name and its manifest; what was set aside, by its name; what a killed run left,
    by its name and lock.
    """
    found = []
    for kind, folder in folders.items():
        left = set(leftovers(folder))
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            state = UNFINISHED if str(path) in left else _state(kind, path)
            if state:
                age = max(0.0, time.time() - path.lstat().st_mtime)
                found.append(CacheEntry(kind, path, state, _size(path), age))
    return found


def remove_entry(entry: CacheEntry) -> None:
    """Remove an entry that nobody reads or makes.

    Raises:
        CacheError: somebody does, or it cannot be removed.
    """
    if entry.state == UNFINISHED:
        remove_leftovers(entry.path.parent)
        return
    user = entry.path.with_name(own_name(entry.path.name))
    if is_in_use(user):
        raise CacheError(f"{entry.path} is in use by another process: try again when it has ended")
    try:
        with making(user, lambda line: None):
            if entry.path.is_dir():
                shutil.rmtree(entry.path)
            else:
                entry.path.unlink()
    except OSError as error:
        raise CacheError(f"{entry.path} cannot be removed ({error.strerror})") from error


def _state(kind: str, path: Path) -> str | None:
    """None for what is not ours."""
    if path.is_symlink():
        return None
    if kind == "timings":
        return WHOLE if _TIMINGS.fullmatch(path.name) and path.is_file() else None
    name, manifest, form = _KNOWN[kind]
    if not path.is_dir():
        return None
    if not name.fullmatch(own_name(path.name)):
        return None
    if is_set_aside(path.name):
        return SET_ASIDE
    try:
        content = parse_object(read_file(path, manifest, MANIFEST_BYTES))
    except (OSError, BadFileError, BadManifestError):
        return None
    return WHOLE if content.get("format") == form else None


def _size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.lstat().st_size for file in files if not file.is_dir())
