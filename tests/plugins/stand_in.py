"""TensorRT's Python bindings without TensorRT: which are here, and libraries that let them be loaded.

The bindings' native module needs TensorRT's libraries, which have no package of a size to test with. Those
of TensorRT-RTX declare the same functions, so links to them take their names; one function of the plugin
library, which nothing here calls, is compiled.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from flashvsr_trt.engines.flavours import TENSORRT
from flashvsr_trt.extras import install_command

ROOT = Path(__file__).parents[2]

OLDEST = ".".join(map(str, TENSORRT.oldest))

STUB = "int initLibNvInferPlugins(void *logger, const char *name) { return 1; }\n"


OLDEST_FOLDER = ROOT / "build" / f"tensorrt-{OLDEST}-{sys.implementation.cache_tag}"


def bindings_folder(age: str) -> Path:
    """Where `tensorrt_bindings` of the oldest or the newest supported version is; skips without."""
    if age == "oldest":
        if not OLDEST_FOLDER.is_dir():
            pytest.skip(f"no TensorRT {OLDEST} bindings in build/: make oldest-tensorrt, where there are any")
        return OLDEST_FOLDER
    spec = importlib.util.find_spec("tensorrt_bindings")
    if spec is None:
        pytest.skip(f"no TensorRT bindings: {install_command('dev-tensorrt')}")
    return Path(spec.origin).parents[1]


def stand_in_libraries(folder: Path) -> Path:
    """Make the folder of libraries that bindings of TensorRT 10 and 11 load; skips where it cannot be."""
    rtx = importlib.util.find_spec("tensorrt_rtx_libs")
    compiler = shutil.which("cc") or shutil.which("gcc")
    if rtx is None or not sys.platform.startswith("linux"):
        pytest.skip(f"TensorRT-RTX's libraries stand in for TensorRT's: {install_command('rtx')}, on Linux")
    if compiler is None:
        pytest.skip("needs a C compiler (cc), for the one function that TensorRT-RTX's libraries lack")
    libraries = Path(rtx.origin).parent
    (parser,) = libraries.glob("libtensorrt_onnxparser_rtx.so.*")
    (core,) = libraries.glob("libtensorrt_rtx.so.*")
    source = folder / "stub.c"
    source.write_text(STUB)
    for major in (10, 11):
        (folder / f"libnvinfer.so.{major}").symlink_to(core)
        (folder / f"libnvonnxparser.so.{major}").symlink_to(parser)
        stub = folder / f"libnvinfer_plugin.so.{major}"
        subprocess.run([compiler, "-shared", "-fPIC", "-o", stub, source], check=True)
    return folder


def environment(bindings: Path, libraries: Path) -> dict[str, str]:
    """Variables with which a process loads these bindings and these libraries."""
    path = os.pathsep.join([str(bindings), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {"LD_LIBRARY_PATH": str(libraries), "PYTHONPATH": path}


def run_in_tensorrt(bindings: Path, libraries: Path, job: dict[str, Any], result: Path) -> dict[str, Any]:
    """What TensorRT's classes were told, by `tensorrt_worker.py` in a process of its own.

    Raises:
        RuntimeError: the process failed; the message is what it wrote.
    """
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.tensorrt_worker", result],
        input=json.dumps(job),
        env=os.environ | environment(bindings, libraries),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if done.returncode:
        raise RuntimeError(f"the worker ended with {done.returncode}: {done.stderr}")
    return json.loads(result.read_text())


def fetch_oldest() -> None:
    """Put the oldest version's bindings into `build/`, unless they are there; say so where there are none."""
    if OLDEST_FOLDER.is_dir():
        return
    OLDEST_FOLDER.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=OLDEST_FOLDER.parent) as part:
        wanted = f"tensorrt-cu13-bindings=={OLDEST}.*"
        target = Path(part, "bindings")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = "".join(done.stderr.strip().splitlines()[-1:])
            print(f"the tests with TensorRT {OLDEST} are skipped: {reason}")
        else:
            target.rename(OLDEST_FOLDER)


if __name__ == "__main__":
    fetch_oldest()
