"""nano with its own weights in the onnxruntime flavour's float16 graphs, by sessions of the CPU."""

import numpy as np

from flashvsr_trt.engines.build import build_engines
from flashvsr_trt.engines.flavours import ONNXRUNTIME, Target
from flashvsr_trt.parity.tensor_error import psnr, thresholds_for
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.onnxruntime.session import CPU
from flashvsr_trt.runtime.request import ExecutorRequest
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from tests.engines.conftest import FLOAT16
from tests.exported import ignore
from tests.runtime.host_device import HostDevice
from tests.runtime.queued_runner import QueuedRunner

FRAMES = 21


def test_frames_of_float16_engines_are_those_of_torch_in_float32(bundle_of, tmp_path):
    bundle = bundle_of(FLOAT16)
    height, width = bundle.stream.geometry.height, bundle.stream.geometry.width
    row, column = np.mgrid[:height, :width]
    frames = np.stack([np.stack([column * 2 + t, row * 3, row + column], -1) for t in range(FRAMES)])
    frames = frames.clip(0, 255).astype(np.uint8)
    engines = build_engines(tmp_path, bundle, Target(ONNXRUNTIME, "1.31.1", "9.0"), notify=ignore)
    device = HostDevice()
    runner = QueuedRunner(engines, device, provider=CPU)
    made = upscaled(TensorRTExecutor(bundle, engines.manifest.plans, runner, device), frames)
    request = ExecutorRequest(bundle.stream, None, device="cpu", dtype="float32")
    expected = upscaled(open_executor("torch", request, ignore), frames)
    assert expected.std() > 20
    assert psnr(expected, made) >= thresholds_for("fp16").frames_psnr


def upscaled(executor, frames):
    """A clip's frames."""
    session = Session(executor)
    return np.concatenate([session.push(frames), session.flush()])
