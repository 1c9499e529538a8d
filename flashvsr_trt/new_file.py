"""A text file that appears under its name only when it is whole."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flashvsr_trt.errors import UsageError
from flashvsr_trt.runtime.part_file import PartFile, named_errors, part_name


@contextmanager
def new_file(path: str, *, inputs: tuple[str, ...], overwrite: bool) -> Iterator[Callable[[str], None]]:
    """Gives `write(text)`. The file gets its name when the block ends, and is removed when the block fails.

    Raises:
        UsageError: the file exists and `overwrite` is not set, or it is one of the inputs.
        VideoError: it cannot be written.
    """
    for name in inputs:
        if os.path.exists(path) and os.path.exists(name) and os.path.samefile(path, name):
            raise UsageError(f"the output {path} is an input; give it another name")
    if os.path.exists(path) and not overwrite:
        raise UsageError(f"{path} exists already; choose another name or overwrite it (--overwrite)")
    part = part_name(path)
    with named_errors(path):
        file = PartFile(part, "w")

    def write(text: str) -> None:
        with named_errors(path):
            file.write(text.encode())

    try:
        yield write
        with named_errors(path):
            file.close()
            os.replace(part, path)
    except BaseException:
        file.close()
        os.unlink(part)
        raise
