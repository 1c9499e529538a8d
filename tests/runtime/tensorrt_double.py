"""The TensorRT executor opened on doubles, and clips that are some DiT steps long."""

from functools import cache

import numpy as np

from flashvsr_trt.engines.lowering import lower_graph
from flashvsr_trt.parity.compare import synthetic_frames
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from tests.runtime.device_double import DeviceDouble
from tests.runtime.engine_double import RecordedRunner

BUNDLES = ["sparse_bundle", "dense_bundle"]
"""Fixtures: the official and the low-latency schedule."""

STEPS = 9


@cache
def plans_of(folder, graphs):
    return {name: lower_graph(folder / f"{name}.onnx").plan for name in graphs}


def open_executor(bundle, runner_type=RecordedRunner, device=None, **options):
    device = device or DeviceDouble()
    runner = runner_type(device) if runner_type is RecordedRunner else runner_type(device, bundle)
    plans = plans_of(bundle.folder, tuple(bundle.graphs))
    return TensorRTExecutor(bundle, plans, runner, device, **options)


def frames_for(bundle, steps):
    """As many frames as make that many DiT steps."""
    units = bundle.stream.schedule.first_units + steps - 1
    return synthetic_frames(bundle, units * 8 - 3)


def run_steps(executor, steps=STEPS, overlap=False):
    """Push the frames of so many DiT steps, one unit at a time."""
    session = Session(executor, overlap=overlap)
    frames = frames_for(executor.bundle, steps)
    made = [session.push(frames[start : start + 8]) for start in range(0, len(frames), 8)]
    return np.concatenate([*made, session.flush()])
