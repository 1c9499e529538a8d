"""The project's bf16 kernels for every architecture, compiled once for all workers of a test run."""

from pathlib import Path

import pytest
from filelock import FileLock


@pytest.fixture(scope="session")
def compiled_kernels(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that `build_kernels` made. Tests only read it."""
    pytest.importorskip("triton", reason="compiling kernels needs Triton (extra 'kernels')")
    from flashvsr_trt.kernels.compile import build_kernels
    from flashvsr_trt.kernels.tuning import ARCHITECTURES

    base = tmp_path_factory.getbasetemp()
    root = base if worker_id == "master" else base.parent
    with FileLock(root / "kernels.lock"):
        build_kernels(ARCHITECTURES, root / "kernels", ("bf16",))
    return root / "kernels"
