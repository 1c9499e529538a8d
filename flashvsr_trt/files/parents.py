"""The folders that an output is in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flashvsr_trt.errors import FlashVSRError
from flashvsr_trt.files.new import write_errors


@contextmanager
def new_parents(path: str, kind: type[FlashVSRError]) -> Iterator[None]:
    """Makes the folders that `path` is in; after an error those of them that are empty go again.

    Raises:
        FlashVSRError: of that kind; one cannot be made.
    """
    for folder in Path(path).parents:
        if os.path.lexists(folder) and not folder.is_dir():
            raise kind(f"{path} cannot be written: {folder} is no folder; name another")
    missing = [folder for folder in Path(path).parents if not os.path.lexists(folder)]
    with write_errors(path, kind):
        os.makedirs(Path(path).parent, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # it holds something
                folder.rmdir()
        raise
