"""Engines of a stream on the device double, for a dry run of what is run on a GPU."""

from typing import Any

from bench.counted_calls import CountedCalls
from flashvsr_trt.cache.bundle import bundle_for
from flashvsr_trt.cache.folder import cache_folder
from flashvsr_trt.engines.build import find_or_build_engines
from flashvsr_trt.engines.flavours import ONNXRUNTIME, Target
from flashvsr_trt.runtime.onnxruntime.session import CPU
from flashvsr_trt.runtime.request import ExecutorRequest
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from tests.exported import ignore
from tests.runtime.host_device import HostDevice
from tests.runtime.queued_runner import QueuedRunner

DRY_PRECISION = "fp32"
"""The CPU's sessions have kernels of it, and torch on a CPU computes in it by default."""


class CountingHost(CountedCalls, HostDevice):
    """The device double that counts calls as the GPU's device does."""


def open_dry_engines(request: ExecutorRequest, device: Any) -> TensorRTExecutor:
    """The executor on sessions of the CPU, of engines as the onnxruntime flavour builds them."""
    bundle = bundle_for(request.stream, request.weights, DRY_PRECISION, ignore)
    target = Target(ONNXRUNTIME, "1.31.1", "9.0")
    engines = find_or_build_engines(cache_folder("engines"), bundle, target, notify=ignore)
    runner = QueuedRunner(engines, device, provider=CPU)
    return TensorRTExecutor(bundle, engines.manifest.plans, runner, device)
