"""What a GPU report was made with: device, driver, versions and commit."""

import os
import platform
import shutil
import subprocess
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("torch", "triton", "numpy", "cuda-python", "av", "tensorrt", "tensorrt-rtx")

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict:
    """Device, driver, CUDA, versions of the packages that are installed, and the checkout's commit."""
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "capability": torch.cuda.get_device_capability() if torch.cuda.is_available() else None,
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "packages": packages(),
        "commit": commit(),
    }


def driver_version() -> str | None:
    """NVIDIA's driver, None where there is none."""
    if not shutil.which("nvidia-smi"):
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    return outcome.stdout.split("\n")[0].strip() if outcome.returncode == 0 else None


def packages() -> dict[str, str]:
    """Distribution -> version of what is installed.

    Several distributions bring the module `onnxruntime`, and the one that was installed last overwrites the
    others: so it is the module that says which one it is.
    """
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    with suppress(ImportError):
        from onnxruntime.capi.build_and_package_info import __version__, package_name

        found[package_name] = __version__
    return found


def commit() -> str | None:
    """The checkout's commit, with "+ changes" where files differ from it; None outside git.

    A copy of the tree without its history takes it from the variable GIT_COMMIT.
    """
    if os.environ.get("GIT_COMMIT") or not shutil.which("git"):
        return os.environ.get("GIT_COMMIT")
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+ changes"],
        capture_output=True,
        text=True,
        check=False,
    )
    return described.stdout.strip() if described.returncode == 0 else None
