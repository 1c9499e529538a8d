"""FlashVSR v1.1 video super-resolution: checkpoints to compiled engines, and a streaming runtime."""

from pathlib import Path

__version__ = "0.1.0"


def _is_checkout(root: Path) -> bool:
    project = root / "pyproject.toml"
    return project.is_file() and b'\nname = "flashvsr-trt"' in project.read_bytes()


# The rooms (model/, runtime/, ...) are folders at a checkout's top, and are in this one when it is installed.
if _is_checkout(_root := Path(__file__).resolve().parent.parent):
    __path__.append(str(_root))
