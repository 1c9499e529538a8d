"""The ONNX Runtime executor through sessions, without torch, and what it refuses."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import tile_geometry
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.parity.compare import synthetic_frames
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.onnxruntime import executor as onnxruntime_executor
from flashvsr_trt.runtime.onnxruntime.executor import OnnxRuntimeExecutor
from flashvsr_trt.runtime.onnxruntime.session import onnxruntime_errors, session_options
from flashvsr_trt.runtime.request import ExecutorRequest, TileOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from tests.cli.command import ROOT
from tests.exported import network_for
from tests.without_torch import FORBID_TORCH

WITHOUT_TORCH = (
    FORBID_TORCH
    + """\
from pathlib import Path
import numpy as np
from flashvsr_trt.bundle import read_bundle
from flashvsr_trt.runtime.onnxruntime.executor import OnnxRuntimeExecutor
from flashvsr_trt.runtime.session import Session

session = Session(OnnxRuntimeExecutor(read_bundle(Path(sys.argv[1]))))
frames = np.load(sys.argv[2])
np.save(sys.argv[3], np.concatenate([session.push(frames), session.flush()]))
assert "torch" not in sys.modules
"""
)


def upscale(executor, frames):
    session = Session(executor)
    return np.concatenate([session.push(frames), session.flush()])


@pytest.mark.parametrize("name", ["sparse_bundle", "dense_bundle"])
def test_a_clip_equals_the_torch_executors(name, request):
    bundle = request.getfixturevalue(name)
    frames = synthetic_frames(bundle, 22)
    expected = upscale(TorchExecutor(network_for(bundle), bundle.stream), frames)
    executor = OnnxRuntimeExecutor(bundle)
    assert psnr(expected, upscale(executor, frames)) > 60
    assert set(executor.stage_seconds()) == {"encode", "dit", "decode"}


def test_sessions_of_one_executor_do_not_mix(dense_bundle):
    executor = OnnxRuntimeExecutor(dense_bundle, threads=1)
    clips = [synthetic_frames(dense_bundle, 21), 255 - synthetic_frames(dense_bundle, 21)]
    alone = [upscale(executor, clip) for clip in clips]
    sessions = [Session(executor) for _ in clips]
    together = [[], []]
    for part in range(0, 21, 7):
        for made, session, clip in zip(together, sessions, clips, strict=True):
            made.append(session.push(clip[part : part + 7]))
    for made, session, expected in zip(together, sessions, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate([*made, session.flush()]), expected)


def test_a_reset_session_makes_the_next_clip_as_a_new_one_would(dense_bundle):
    session = Session(OnnxRuntimeExecutor(dense_bundle, threads=1))
    clips = [synthetic_frames(dense_bundle, 13), 255 - synthetic_frames(dense_bundle, 13)]
    made = []
    for clip in clips:
        made.append(np.concatenate([session.push(clip), session.flush()]))
        session.reset()
    np.testing.assert_array_equal(made[1], upscale(session.executor, clips[1]))
    assert (made[0] != made[1]).any()


def test_a_bundle_runs_where_torch_cannot_be_imported(dense_bundle, tmp_path):
    frames = synthetic_frames(dense_bundle, 13)
    np.save(tmp_path / "in.npy", frames)
    command = [
        sys.executable,
        "-c",
        WITHOUT_TORCH,
        dense_bundle.folder,
        tmp_path / "in.npy",
        tmp_path / "out.npy",
    ]
    subprocess.run(command, check=True, cwd=ROOT, env={"PYTHONPATH": str(ROOT)})
    np.testing.assert_array_equal(
        np.load(tmp_path / "out.npy"), upscale(OnnxRuntimeExecutor(dense_bundle), frames)
    )


@pytest.mark.parametrize(
    ("device", "message"), [("tpu", "cpu, cuda or cuda:N"), ("cuda:x", "cpu, cuda or cuda:N")]
)
def test_an_unknown_device_is_named(dense_bundle, device, message):
    with pytest.raises(DeviceError, match=message):
        OnnxRuntimeExecutor(dense_bundle, device)


def test_bfloat16_is_refused_before_anything_is_exported():
    stream = StreamConfig(find_preset("nano"), Geometry(64, 64, 2), find_schedule("low-latency"))
    with pytest.raises(DeviceError, match="bfloat16"):
        open_executor("onnxruntime", ExecutorRequest(stream, "random", dtype="bfloat16"))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("size", [(45, 32), (64, 64), (100, 300)])
def test_the_bundle_of_a_tile_serves_frames_of_every_size(size, device, monkeypatch):
    stream = StreamConfig(find_preset("nano"), Geometry(*size, 2), find_schedule("low-latency"))
    tile = replace(stream, geometry=tile_geometry((256, 256)))
    monkeypatch.setattr(onnxruntime_executor, "_parse_device", lambda name: (name, 0))
    monkeypatch.setattr(onnxruntime_executor, "weights_bytes", lambda of, *_: 0 if of == tile else 2**50)
    monkeypatch.setattr(onnxruntime_executor, "bundle_for", lambda of, *_: of)
    monkeypatch.setattr(onnxruntime_executor, "OnnxRuntimeExecutor", lambda bundle, device: bundle)
    monkeypatch.setattr(onnxruntime_executor, "TiledExecutor", lambda executor, *_: executor)
    request = ExecutorRequest(stream, "random", device, tiles=TileOptions((256, 256)))
    assert onnxruntime_executor.open_onnxruntime_executor(request, print) == tile


def test_what_onnxruntime_raises_is_an_error_of_ours(dense_bundle, tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(DeviceError, match=r"cannot load x \("), onnxruntime_errors("cannot load x"):
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    executor = OnnxRuntimeExecutor(dense_bundle)
    wrong = np.zeros((8, 16, 16, 3), np.uint8)
    with pytest.raises(DeviceError, match="ONNX Runtime failed in encode"):
        executor.encode(wrong, True, executor.new_state())


@pytest.mark.parametrize(("said", "threads"), [("3", 3), ("2,4", 2), ("", 0), ("many", 0), (None, 0)])
def test_threads_are_those_of_torch_unless_said(said, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert session_options().intra_op_num_threads == threads
    assert session_options(threads=1).intra_op_num_threads == 1


def test_other_errors_pass():
    with pytest.raises(KeyError), onnxruntime_errors("ONNX Runtime cannot load x"):
        raise KeyError("x")
