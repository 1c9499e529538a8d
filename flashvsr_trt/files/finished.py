"""What this process has finished, in words."""

from contextlib import suppress
from pathlib import Path

from flashvsr_trt.cache.folder import cache_root
from flashvsr_trt.errors import CacheError
from flashvsr_trt.files.new import FINISHED


def what_was_written() -> str:
    """For the line about an end that came too early: what this process has finished, beside the cache."""
    cache = None
    with suppress(CacheError):
        cache = cache_root()
    written = [path for path in FINISHED if not cache or not Path(path).absolute().is_relative_to(cache)]
    if not written:
        return "nothing was written"
    if len(written) == 1:
        return f"only {written[0]} was written"
    return f"only {len(written)} outputs were written, {written[-1]} as the last"
