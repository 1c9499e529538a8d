"""docs/run_engine.cpp runs the stream that the Python runtime runs, and docs/engines.md has its bindings.

Both run on engines whose outputs depend on all that they read: state, ring, schedule and order all show.
"""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from flashvsr_trt.engines.lowering import keep_custom_nodes
from flashvsr_trt.parity.compare import synthetic_frames
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from tests.runtime.device_double import DeviceDouble
from tests.runtime.engine_double import RecordedRunner

ROOT = Path(__file__).resolve().parents[2]
DOUBLES = Path(__file__).parent / "cpp"
MIX = 0x9E3779B97F4A7C15


@pytest.fixture(scope="session")
def program(session_folder):
    """docs/run_engine.cpp, compiled against doubles of TensorRT and of CUDA's runtime."""
    compiler = shutil.which("g++")
    triton = importlib.util.find_spec("triton")
    if compiler is None or triton is None:
        pytest.skip("no g++, or no triton, in whose wheel CUDA's headers are")
    headers = Path(triton.origin).parent / "backends/nvidia/include"
    path = session_folder / "run_engine"
    sources = [ROOT / "docs/run_engine.cpp", DOUBLES / "cuda_double.cpp"]
    options = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{DOUBLES}", f"-isystem{headers}"]
    subprocess.run([compiler, *options, *map(str, sources), "-o", str(path)], check=True)
    return path


def specs_of(bundle, graph):
    signature = bundle.signatures[graph]
    return signature.graph_inputs, signature.graph_outputs


def write_engines(bundle, folder):
    """Engines of the doubles: a line for each tensor."""
    for graph in bundle.signatures:
        lines = [
            f"{spec.name} {mode} {bundle.dtype_of(spec)} {len(spec.shape)} {' '.join(map(str, spec.shape))}"
            for mode, specs in zip(("input", "output"), specs_of(bundle, graph), strict=True)
            for spec in specs
        ]
        (folder / f"{graph}.engine").write_text("\n".join(lines))


class SummingRunner(RecordedRunner):
    """Computes what the double of TensorRT computes, in NvInfer.h."""

    bundle = None

    def compute_engine(self, engine, addresses):
        inputs, outputs = specs_of(self.bundle, engine)
        seen = 0
        for spec in inputs:
            seen = (seen ^ self._summed(spec, addresses[spec.name])) * MIX % 2**64
        for number, spec in enumerate(outputs, 1):
            memory = self._bytes(spec, addresses[spec.name])
            starts = np.arange(0, len(memory), 8, dtype=np.uint64)
            memory.view(np.uint64)[:] = (starts + np.uint64((seen + number) % 2**64)) * np.uint64(MIX)

    def _bytes(self, spec, address):
        return self.device.memory(address, spec.size_bytes(self.bundle.compute))

    def _summed(self, spec, address):
        memory = self._bytes(spec, address)
        if spec.name == "noise":
            return 0
        if spec.name.startswith("time_"):
            values = np.rint(memory.view(np.float32) * 100).astype(np.int64)
            return int((values * (1 + np.arange(len(values)))).sum()) % 2**64
        words = memory if len(memory) % 8 else memory.view(np.uint64)
        size = -(-len(words) // 16)
        parts = [words[start : start + size] for start in range(0, len(words), size)]
        return sum(weight * int(part.sum(dtype=np.uint64)) for weight, part in enumerate(parts, 1)) % 2**64


@pytest.mark.parametrize(
    ("name", "frame_count"), [("sparse_bundle", 37), ("dense_bundle", 37), ("dense_bundle", 1)]
)
def test_the_program_makes_the_frames_of_the_python_runtime(program, request, tmp_path, name, frame_count):
    bundle = request.getfixturevalue(name)
    write_engines(bundle, tmp_path)
    frames = synthetic_frames(bundle, frame_count)
    done = subprocess.run([program, tmp_path], input=frames.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr
    made = np.frombuffer(done.stdout, np.uint8).reshape(-1, *bundle.stream.geometry.target, 3)
    assert len(made) == frame_count

    device = DeviceDouble()
    runner = SummingRunner(device)
    runner.bundle = bundle
    plans = {graph: keep_custom_nodes(bundle.graph_path(graph)).plan for graph in bundle.graphs}
    session = Session(TensorRTExecutor(bundle, plans, runner, device))
    expected = np.concatenate([session.push(frames), session.flush()])
    height, width = bundle.stream.geometry.output
    np.testing.assert_array_equal(made[:, :height, :width], expected)


@pytest.mark.parametrize(
    ("content", "engine", "message"),
    [
        (b"", "dit", "the input is not whole frames of the engines' size"),
        (b"x", "dit", "the input is not whole frames of the engines' size"),
        (b"", None, "no dit.engine in"),
    ],
)
def test_what_cannot_be_run_is_one_line_and_a_status(
    program, dense_bundle, tmp_path, content, engine, message
):
    write_engines(dense_bundle, tmp_path)
    if engine is None:
        (tmp_path / "dit.engine").unlink()
    done = subprocess.run([program, tmp_path], input=content, capture_output=True, text=False)
    assert done.returncode == 1
    assert done.stdout == b""
    assert done.stderr.decode().startswith(f"error: {message}")
    assert done.stderr.count(b"\n") == 1
