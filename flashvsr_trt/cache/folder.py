"""Where things that can be made again are kept: exported bundles, engines, kernels, timings."""

import os
import tempfile
from pathlib import Path

from platformdirs import user_cache_path

from flashvsr_trt.errors import CacheError

CACHE_VARIABLE = "FLASHVSR_CACHE"

_REMEDY = f"set {CACHE_VARIABLE} to a folder that can be written"


def cache_folder(kind: str) -> Path:
    """A folder per kind of thing, under FLASHVSR_CACHE or the user's cache; it may not exist yet.

    Raises:
        CacheError: the user has no home folder, or something that is no folder is named.
    """
    return cache_root() / kind


def check_writable(kind: str) -> None:
    """Raise CacheError where nothing can be written into the folder of a kind, which is made."""
    folder = cache_folder(kind)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error


def unwritable(folder: Path, error: OSError | NotImplementedError) -> CacheError:
    """The error that says so of a folder in the cache."""
    reason = getattr(error, "strerror", None) or error
    return CacheError(f"the cache {folder} cannot be written ({reason}): {_REMEDY}")


def cache_root() -> Path:
    """The folder of all kinds. A relative XDG_CACHE_HOME is ignored, as its specification says. As above."""
    named = os.environ.get(CACHE_VARIABLE)
    root = Path(os.path.abspath(os.path.expanduser(named))) if named else _default_root()
    if root.exists() and not root.is_dir():
        raise CacheError(f"the cache {root} is no folder: {_REMEDY}")
    return root


def _default_root() -> Path:
    xdg = os.environ.get("XDG_CACHE_HOME")
    root = user_cache_path("flashvsr-trt", appauthor=False)
    if xdg and not os.path.isabs(xdg):
        root = Path(os.path.expanduser("~/.cache")) / "flashvsr-trt"
    if not root.is_absolute():
        raise CacheError(f"there is no home folder for a cache: {_REMEDY}")
    return root
