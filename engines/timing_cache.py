"""What a builder measured, kept from build to build. It holds for one model of GPU and one version."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashvsr_trt.engines.flavours import Target
from flashvsr_trt.errors import EngineError
from flashvsr_trt.files import new_file, write_errors


def timing_cache_path(root: Path, target: Target) -> Path | None:
    """The file under a folder of engines; None for builders that measure nothing."""
    if target.flavour.portable:
        return None
    device = "-".join((target.device or "unknown").split())
    return root / "timings" / f"{target.flavour.name}-{target.version}-{device}.cache"


@contextmanager
def keep_timings(config: Any, path: Path | None) -> Iterator[None]:
    """Give a builder's configuration the timings of a file, and write them back after the build."""
    if path is None:
        yield
        return
    known = path.read_bytes() if path.is_file() else b""
    config.set_timing_cache(config.create_timing_cache(known), False)
    yield
    # Builds at once each write what they know: the last one stays, whole.
    with write_errors(path, EngineError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path, overwrite=True) as file:
            file.file.write(config.get_timing_cache().serialize())
            file.finish()
