"""The device memory of engines and clips, counted and given back; and what a profile of a run holds."""

import json
from dataclasses import replace

import pytest

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.errors import DeviceError
from flashvsr_trt.memory import MemoryEstimate
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.tensorrt.clip_memory import clip_buffers, unit_places
from flashvsr_trt.runtime.tensorrt.device_memory import check_device_memory
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from flashvsr_trt.runtime.tensorrt.run_profile import RunProfile
from tests.runtime.device_double import DeviceDouble
from tests.runtime.engine_double import WEIGHT_BYTES, RecordedRunner
from tests.runtime.tensorrt_double import BUNDLES, frames_for, open_executor, plans_of, run_steps


@pytest.fixture(params=BUNDLES)
def bundle(request):
    return request.getfixturevalue(request.param)


def test_the_estimate_is_what_is_allocated_to_the_byte(bundle):
    device = DeviceDouble()
    executor = open_executor(bundle, device=device)
    session = Session(executor)
    assert device.taken == executor.describe()["device_memory_bytes"]
    assert executor.needed.weights == len(executor.graphs.engines) * WEIGHT_BYTES
    session.push(frames_for(bundle, 3))
    assert device.taken <= executor.describe()["device_memory_bytes"]


def test_a_clip_and_an_executor_give_their_memory_back(bundle):
    device = DeviceDouble()
    executor = open_executor(bundle, device=device)
    before = device.taken
    session = Session(executor)
    session.push(frames_for(bundle, 6))
    assert device.taken > before
    assert device.graphs
    del session
    first_step = executor.plans["dit_first"].engines if "dit_first" in executor.plans else ()
    assert device.taken == before - len(first_step) * WEIGHT_BYTES
    assert not device.graphs
    assert not device.pinned
    del executor
    assert device.taken == 0


def test_a_stream_that_does_not_fit_is_refused_before_anything_is_allocated(bundle):
    needed = open_executor(bundle).needed
    device = DeviceDouble(total=needed.total - 1)
    with pytest.raises(DeviceError, match="GiB are missing"):
        open_executor(bundle, device=device)
    assert not device.blocks
    assert open_executor(bundle, device=DeviceDouble(total=needed.total)).needed == needed


@pytest.mark.parametrize(
    ("scale", "gibibytes", "advice"),
    [
        (2, 3, "would fit: give an input of at most "),
        (4, 3, "would fit: give an input of at most "),
        (4, 9, "or --scale 2"),
        (2, 0.01, "no size of this preset fits; use preset nano"),
    ],
)
def test_the_refusal_says_what_would_fit(dense_bundle, scale, gibibytes, advice):
    stream = replace(dense_bundle.stream, geometry=Geometry(4096 // scale, 8192 // scale, scale))
    needed = MemoryEstimate(weights=2**20, state=10 * 2**30, working=2**30)
    with pytest.raises(DeviceError, match=advice) as error:
        check_device_memory(stream, "float32", needed, int(gibibytes * 2**30), "this GPU")
    missing = needed.total / 2**30 - gibibytes
    assert f"{missing:.2f} GiB are missing" in str(error.value)
    assert "8192x4096" in str(error.value)


def test_a_profile_has_every_stage_and_layer_and_a_trace(bundle, tmp_path):
    profile = RunProfile()
    device = DeviceDouble()
    executor = open_executor(bundle, device=device, profile=profile)
    run_steps(executor)
    assert executor.describe()["cuda_graphs"] is False
    assert set(executor.stage_seconds()) == {"encode", "dit", "decode"}
    assert {span.stage for span, _ in profile.spans} == {"encode", "dit", "decode"}
    runs = sum(len(layers) for _, layers in profile.spans)
    counted = executor.describe()["kernel_calls"]
    assert runs == sum(count for name, count in counted.items() if name.endswith("/engine"))
    table = "\n".join(profile.table())
    assert "encode" in table
    assert "the only layer" in table
    events = json.loads(profile.trace_text())["traceEvents"]
    assert len(events) == len(profile.spans) + runs
    assert all(event["ph"] == "X" and event["dur"] >= 0 and event["ts"] >= 0 for event in events)


def test_buffers_are_declared_once_for_each_tensor_of_the_signatures(bundle):
    buffers = clip_buffers(bundle.stream)
    signatures = bundle.signatures
    for spec in signatures["encode"].state + signatures["decode"].state:
        assert sum(name.startswith(f"state.{spec.name}@") for name in buffers) == 2
    places = unit_places(bundle.stream)
    assert places % 2 == 0
    assert sum(name.startswith("encode.condition@") for name in buffers) == places


def test_an_engine_has_one_context_however_many_addresses_it_is_run_on(bundle):
    executor = open_executor(bundle)
    engines = {name for plan in executor.plans.values() for name in plan.engines}
    assert executor.runner.contexts == dict.fromkeys(engines, 1)
    run_steps(executor)
    assert set(executor.runner.contexts.values()) == {1}


class KeepingRunner(RecordedRunner):
    """Remembers how many contexts there were whenever what was compiled is kept."""

    def keep_compiled(self):
        self.kept = [*getattr(self, "kept", []), sum(self.contexts.values())]


def test_what_was_compiled_is_kept_once_contexts_are_made_and_again_at_the_end(dense_bundle):
    device = DeviceDouble()
    runner = KeepingRunner(device)
    plans = plans_of(dense_bundle.folder, tuple(dense_bundle.graphs))
    executor = TensorRTExecutor(dense_bundle, plans, runner, device)
    engines = len(executor.graphs.engines)
    assert runner.kept == [engines]
    del executor
    assert runner.kept == [engines, engines]


def test_the_engines_of_the_first_step_are_given_back_after_it(sparse_bundle):
    device = DeviceDouble()
    executor = open_executor(sparse_bundle, device=device)
    first = set(executor.plans["dit_first"].engines)
    before = device.taken
    session = Session(executor)
    session.push(frames_for(sparse_bundle, 3))
    assert not first & set(executor.graphs.engines)
    assert device.taken == before + executor.needed.state - len(first) * WEIGHT_BYTES
    # A clip that starts later has them again, also beside one that is running.
    run_steps(executor, 3)
    assert len(session.flush())
    assert not first & set(executor.graphs.engines)


def test_the_first_step_of_a_clip_that_waits_is_kept(sparse_bundle):
    executor = open_executor(sparse_bundle)
    waiting = Session(executor)
    waiting.push(frames_for(sparse_bundle, 1)[:3])
    run_steps(executor, 3)
    assert executor.graphs.is_loaded("dit_first")
    frames = frames_for(sparse_bundle, 3)
    assert len(waiting.push(frames)) + len(waiting.flush()) == len(frames) + 3
