"""Fills a cache with the bundle that `test_without_torch` runs; its one argument is the folder."""

import os
import sys
import tempfile
from pathlib import Path

from flashvsr_trt.cli.main import main
from tests.clips import make_clip
from tests.newest.test_without_torch import RUN, SIZE

if __name__ == "__main__":
    os.environ["FLASHVSR_CACHE"] = sys.argv[1]
    with tempfile.TemporaryDirectory() as folder:
        main(["run", str(make_clip(Path(folder) / "clip.mp4", frames=1, size=SIZE)), *RUN])
