"""FlashVSR v1.1 video super-resolution: checkpoints to compiled engines, and a streaming runtime."""

import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Upscaler": "flashvsr_trt.upscaler",
    "Session": "flashvsr_trt.runtime.session",
    "open_session": "flashvsr_trt.runtime.executors",
    "FlashVSRError": "flashvsr_trt.errors",
}
"""Where each public name is, imported when it is asked for; `__init__.pyi` has their types."""


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'flashvsr_trt' has no attribute '{name}'")


def _is_checkout(root: Path) -> bool:
    project = root / "pyproject.toml"
    return project.is_file() and b'\nname = "flashvsr-trt"' in project.read_bytes()


# The rooms (model/, runtime/, ...) are folders at a checkout's top, and are in this one when it is installed.
if _is_checkout(_root := Path(__file__).resolve().parent.parent):
    __path__.append(str(_root))
