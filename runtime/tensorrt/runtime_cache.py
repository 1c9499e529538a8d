"""What TensorRT-RTX compiled for one GPU, kept beside the engines: without it every start compiles again."""

import logging
from pathlib import Path
from typing import Any

from flashvsr_trt.errors import EngineError, FlashVSRError
from flashvsr_trt.files.new import write_bytes

RUNTIME_CACHE = "runtime_cache.bin"
"""In a folder of engines. The runtime itself refuses one of another GPU, driver or version."""

_log = logging.getLogger("flashvsr_trt")


class RuntimeCache:
    """One cache for all contexts of a folder of engines.

    Args:
        path: where it is kept; it need not be there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cache: Any = None
        self.stored = b""

    def configured(self, name: str, engine: Any, strategy: Any) -> Any:
        """The runtime configuration of an engine's context, which uses the cache.

        Raises:
            EngineError: the engine takes no cache.
        """
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        if self.cache is None:
            self.cache = config.create_runtime_cache()
            self._read()
        if not config.set_runtime_cache(self.cache):
            raise EngineError(f"{name} takes no runtime cache")
        return config

    def save(self) -> None:
        """Write what was compiled since it was read; a folder that cannot be written is announced."""
        if self.cache is None:
            return
        content = bytes(memoryview(self.cache.serialize()))
        if content == self.stored:
            return
        try:
            write_bytes(self.path, content, overwrite=True)
        except (OSError, FlashVSRError) as error:
            _log.warning("what was compiled is not kept, and is compiled again at the next start: %s", error)
            return
        self.stored = content

    def _read(self) -> None:
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        if self.cache.deserialize(content):
            self.stored = content
        else:
            _log.warning("%s is of another GPU, driver or version: compiling again", self.path)
