"""What a builder measured, kept from build to build. It holds for one model of GPU and one version."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashvsr_trt.engines.flavours import Target
from flashvsr_trt.errors import EngineError
from flashvsr_trt.files.new import write_bytes, write_errors

LOG = logging.getLogger(__name__)

_SAID: set[Path] = set()


def timing_cache_path(root: Path, target: Target) -> Path | None:
    """The file under a folder of engines; None for builders that measure nothing."""
    if target.flavour.portable:
        return None
    device = "-".join((target.device or "unknown").split())
    return root / "timings" / f"{target.flavour.name}-{target.version}-{device}.cache"


@contextmanager
def keep_timings(config: Any, path: Path | None) -> Iterator[None]:
    """Give a builder's configuration the timings of a file, and write them back after the build.

    A file that cannot be read or written costs time and no engine: it is said in one line.
    """
    if path is None:
        yield
        return
    config.set_timing_cache(config.create_timing_cache(_read(path)), False)
    yield
    try:
        _write(path, config.get_timing_cache().serialize())
    except EngineError as error:
        _say_once(path, f"what the builder measured is not kept: {error}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError as error:
        _say_once(path, f"{path} cannot be read ({error.strerror}): the builder measures again")
        return b""


def _write(path: Path, timings: bytes) -> None:
    """Builds at once each write what they know: the last one stays, whole."""
    with write_errors(path, EngineError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, timings, overwrite=True)


def _say_once(path: Path, line: str) -> None:
    """A folder has many engines, and each would say the same."""
    if path not in _SAID:
        _SAID.add(path)
        LOG.warning(line)
