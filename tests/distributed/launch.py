"""Start ranks as torchrun does."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment() -> dict[str, str]:
    """That of this process, with the checkout importable and one thread a rank."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def torchrun(ranks: int, module: str, *arguments: object) -> subprocess.CompletedProcess:
    """`torchrun --nproc_per_node=RANKS -m MODULE ARGUMENTS`, to its end."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={ranks}", "--standalone"]
    return subprocess.run(
        [*command, "-m", module, *map(str, arguments)],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
