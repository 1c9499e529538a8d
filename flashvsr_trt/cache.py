"""Where things that can be made again are kept: exported bundles, engines."""

import os
from pathlib import Path

CACHE_VARIABLE = "FLASHVSR_CACHE"


def cache_folder(kind: str) -> Path:
    """A folder per kind of thing, under FLASHVSR_CACHE or the user's cache; it may not exist yet."""
    root = os.environ.get(CACHE_VARIABLE)
    if not root:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        root = Path(home) / "flashvsr-trt"
    return Path(root) / kind
