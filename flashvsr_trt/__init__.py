"""FlashVSR v1.1 video super-resolution: checkpoints to compiled engines, and a streaming runtime."""

from pathlib import Path

__version__ = "0.1.0"

# The rooms (model/, runtime/, ...) are top-level folders; a bare checkout on PYTHONPATH finds them here.
__path__.append(str(Path(__file__).resolve().parent.parent))
