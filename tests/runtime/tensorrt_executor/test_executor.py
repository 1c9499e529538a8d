"""The TensorRT executor over engines and a GPU in host memory: addresses, order, graphs, memory, refusals."""

import os
import subprocess
import sys

import numpy as np
import pytest

from flashvsr_trt.errors import DeviceError, EngineError
from flashvsr_trt.parity.compare import synthetic_frames
from flashvsr_trt.parity.tensor_error import psnr
from flashvsr_trt.runtime.onnxruntime.executor import OnnxRuntimeExecutor
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.tensorrt.clip_memory import unit_places
from tests.cli.command import ROOT
from tests.runtime.device_double import DeviceDouble
from tests.runtime.engine_double import ComputingRunner
from tests.runtime.tensorrt_double import BUNDLES, STEPS, frames_for, open_executor, run_steps
from tests.without_torch import FORBID_TORCH

UPLOAD, COMPUTE, DECODING, DOWNLOAD = range(1, 5)
"""The executor's streams, as the double numbers them."""


@pytest.fixture(params=BUNDLES)
def bundle(request):
    return request.getfixturevalue(request.param)


AHEAD = {
    "none runs ahead": (),
    "compute runs ahead": (UPLOAD, COMPUTE),
    "decoding runs ahead": (DECODING, DOWNLOAD),
    "all run ahead": (UPLOAD, COMPUTE, DECODING, DOWNLOAD),
}


@pytest.fixture(scope="module")
def expected(request):
    return {}


@pytest.mark.parametrize("ahead", AHEAD)
def test_frames_are_right_whichever_stream_is_fast(bundle, ahead, expected):
    # Seven units: the ring has four slots and wraps.
    steps = 8 - bundle.stream.schedule.first_units
    if bundle.folder not in expected:
        session = Session(OnnxRuntimeExecutor(bundle, threads=1))
        frames = frames_for(bundle, steps)
        expected[bundle.folder] = np.concatenate([session.push(frames), session.flush()])
    device = DeviceDouble(ahead=frozenset(AHEAD[ahead]))
    made = run_steps(open_executor(bundle, ComputingRunner, device), steps, overlap=True)
    assert made.shape == expected[bundle.folder].shape
    assert psnr(expected[bundle.folder], made) > 60


class ForgetfulDevice(DeviceDouble):
    """Lets one stream run without waiting for the others."""

    forgets: int = 0

    def wait(self, stream, event) -> None:
        if stream != self.forgets:
            super().wait(stream, event)


@pytest.mark.parametrize("stream", [UPLOAD, COMPUTE, DECODING, DOWNLOAD])
def test_a_wait_that_is_left_out_would_show_in_the_frames(dense_bundle, stream):
    frames = frames_for(dense_bundle, 5)
    made = []
    for forgets in (0, stream):
        device = ForgetfulDevice(ahead=frozenset({stream}))
        device.forgets = forgets
        # Capturing waits for the device, which would hide what is looked for.
        executor = open_executor(dense_bundle, ComputingRunner, device, cuda_graphs=False)
        session = Session(executor, overlap=True)
        made.append(np.concatenate([session.push(frames), session.flush()]))
    assert not np.array_equal(*made)


def bindings_of(executor, graph):
    """What each binding of a graph's engines set, one dict a binding set."""
    merged = []
    for name, addresses in executor.runner.bound:
        if name == executor.plans[graph].engines[0]:
            merged.append({})
        if name in executor.plans[graph].engines:
            merged[-1] |= addresses
    return merged


def test_new_keys_are_written_into_the_ring_and_nothing_is_copied(bundle):
    device = DeviceDouble()
    executor = open_executor(bundle, device=device)
    session = Session(executor)
    for frame in frames_for(bundle, STEPS):
        session.push(frame[None])
    memory = session.state.memory
    signature = bundle.signatures["dit"]
    bindings = bindings_of(executor, "dit")
    slots = bundle.stream.preset.attention.ring_slots
    assert len(bindings) == slots
    kept = {spec.name: spec.becomes.name for spec in signature.outputs if spec.becomes}
    written = {name: set() for name in kept}
    for addresses in bindings:
        for name, ring in kept.items():
            slot, rest = divmod(addresses[name] - memory.addresses[ring], memory.size(ring) // slots)
            assert rest == 0
            written[name].add(slot)
        for name in addresses.keys() & {spec.name for spec in signature.carried}:
            assert addresses[name] == memory.addresses[name]
    assert all(found == set(range(slots)) for found in written.values())
    copies = [entry for entry in device.log if entry[0] == "copy"]
    first_units = bundle.stream.schedule.first_units
    # The first step of several units alone gathers tokens and hands latents out.
    assert len(copies) == (2 * first_units if first_units > 1 else 0)


def test_the_slot_of_every_step_is_the_rings(bundle, monkeypatch):
    executor = open_executor(bundle)
    keys = []
    run = executor._run

    def record(graph, key, *arguments):
        keys.append(key)
        run(graph, key, *arguments)

    monkeypatch.setattr(executor, "_run", record)
    run_steps(executor)
    steps = [key for key in keys if key[0] == "dit"]
    first_units = bundle.stream.schedule.first_units
    slots = bundle.stream.preset.attention.ring_slots
    units = range(0 if first_units == 1 else first_units, first_units + STEPS - 1)
    assert [key[1] for key in steps] == [unit % slots for unit in units]
    assert len(set(steps)) == slots
    assert len({key for key in keys if key[0] == "encode"}) == unit_places(bundle.stream)
    assert len({key for key in keys if key[0] == "decode"}) == unit_places(bundle.stream)


def test_a_graph_is_captured_after_one_plain_run_and_replayed_from_then_on(bundle):
    device = DeviceDouble()
    executor = open_executor(bundle, device=device)
    state = executor.new_state()
    device.log.clear()
    names, runs = ["zero", "end_capture", "begin_capture", "synchronize", "launch"], []
    bound = []

    def bind():
        bound.append(True)
        graph = executor.plans["encode"]
        edge = {name: state.memory.block for name in (*graph.inputs, *graph.outputs)}
        return executor.graphs.bind("encode", edge)

    for _ in range(3):
        state.graphs.run("encode", bind, COMPUTE)
        runs.append([entry[0] for entry in device.log if entry[0] in (*names, "engine")])
        device.log.clear()
    assert runs[0] == ["engine", "synchronize", "begin_capture", "engine", "end_capture"]
    assert runs[1:] == [["launch"], ["launch"]]
    assert bound == [True]


def test_there_is_one_graph_for_each_ring_position_and_the_first_step_has_none(bundle):
    device = DeviceDouble()
    executor = open_executor(bundle, device=device)
    session = Session(executor)
    session.push(frames_for(bundle, STEPS))
    session.flush()
    slots = bundle.stream.preset.attention.ring_slots
    captured = [key[0] for key, replay in session.state.graphs.replays.items() if replay.cuda_graph]
    assert captured.count("dit") == slots
    assert "dit_first" not in captured
    launches = sum(entry[0] == "launch" for entry in device.log)
    # The first step of several units is forgotten, since a clip has no second.
    plain = len(session.state.graphs.replays) + (bundle.stream.schedule.first_units > 1)
    encodes = session.units_encoded + bool(bundle.stream.schedule.lookahead)
    assert launches + plain == encodes + STEPS + session.units_encoded


def test_every_replay_is_counted_like_a_run(bundle):
    counts = []
    for cuda_graphs in (True, False):
        executor = open_executor(bundle, cuda_graphs=cuda_graphs)
        run_steps(executor)
        assert executor.describe()["cuda_graphs"] is cuda_graphs
        counts.append(executor.describe()["kernel_calls"])
    assert counts[0] == counts[1]
    if bundle.stream.preset.attention.sparse_ratio is not None:
        layers = bundle.stream.preset.network.dit.layers
        assert counts[0]["select_blocks/aot"] == counts[0]["block_sparse_attention/aot"] == layers * STEPS


def test_without_cuda_graphs_nothing_is_captured(bundle):
    device = DeviceDouble()
    run_steps(open_executor(bundle, device=device, cuda_graphs=False))
    assert not {"begin_capture", "launch"} & {entry[0] for entry in device.log}


def test_streams_wait_for_the_events_of_those_before_them(dense_bundle):
    device = DeviceDouble()
    run_steps(open_executor(dense_bundle, device=device), overlap=True)
    recorded = {}
    for entry in device.log:
        if entry[0] == "record":
            recorded[entry[2]] = entry[1]
    waits = {(entry[1], recorded[entry[2]]) for entry in device.log if entry[0] == "wait"}
    assert {(COMPUTE, UPLOAD), (DECODING, COMPUTE), (DOWNLOAD, DECODING)} <= waits
    # What was read may be overwritten: frames by uploads, conditions by encoding, decoded frames by decoding.
    assert {(UPLOAD, COMPUTE), (COMPUTE, DECODING), (DECODING, DOWNLOAD)} <= waits
    work = {"upload": UPLOAD, "download": DOWNLOAD}
    assert all(entry[1] == work[entry[0]] for entry in device.log if entry[0] in work)


def test_a_unit_is_decoded_after_the_next_one_was_put_on_the_device(dense_bundle):
    device = DeviceDouble()
    session = Session(open_executor(dense_bundle, device=device), overlap=True)
    frames = frames_for(dense_bundle, 3)
    assert len(session.push(frames[:5])) == 0
    assert len(session.push(frames[5:13])) == 5
    assert len(session.push(frames[13:])) == 8
    assert len(session.flush()) == 8
    prompt = Session(open_executor(dense_bundle))
    assert [len(prompt.push(part)) for part in (frames[:5], frames[5:13], frames[13:])] == [5, 8, 8]


def test_sessions_of_one_executor_do_not_mix(dense_bundle):
    executor = open_executor(dense_bundle, ComputingRunner)
    clips = [synthetic_frames(dense_bundle, 21), 255 - synthetic_frames(dense_bundle, 21)]
    alone = []
    for clip in clips:
        session = Session(executor)
        alone.append(np.concatenate([session.push(clip), session.flush()]))
    sessions = [Session(executor, overlap=True) for _ in clips]
    together = [[], []]
    for part in range(0, 21, 7):
        for made, session, clip in zip(together, sessions, clips, strict=True):
            made.append(session.push(clip[part : part + 7]))
    for made, session, wanted in zip(together, sessions, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate([*made, session.flush()]), wanted)


def test_a_reset_session_keeps_its_graphs_and_makes_the_next_clip_as_a_new_one_would(dense_bundle):
    executor = open_executor(dense_bundle, ComputingRunner)
    clips = [synthetic_frames(dense_bundle, 21), 255 - synthetic_frames(dense_bundle, 21)]
    session = Session(executor, overlap=True)
    made = []
    for clip in clips:
        session.reset()
        captured = dict(session.state.graphs.replays)
        made.append(np.concatenate([session.push(clip), session.flush()]))
    assert captured
    assert dict(session.state.graphs.replays) == captured
    other = Session(executor)
    np.testing.assert_array_equal(made[1], np.concatenate([other.push(clips[1]), other.flush()]))
    assert (made[0] != made[1]).any()


def test_an_engine_that_cannot_be_captured_names_the_option(dense_bundle):
    executor = open_executor(dense_bundle)
    executor.runner.capturable = False
    with pytest.raises(DeviceError, match=r"encode cannot be captured .*--no-cuda-graphs"):
        run_steps(executor)


def test_a_capture_that_cuda_refuses_names_the_option(dense_bundle):
    device = DeviceDouble(refuse_capture=True)
    with pytest.raises(DeviceError, match="operation not permitted; run with --no-cuda-graphs"):
        run_steps(open_executor(dense_bundle, device=device))


def test_an_engine_that_fails_while_it_is_captured_ends_the_capture(dense_bundle):
    device = DeviceDouble()
    executor = open_executor(dense_bundle, device=device)
    begin_capture = device.begin_capture

    def fail_from_now_on(stream):
        begin_capture(stream)
        executor.runner.fails = "encode"

    device.begin_capture = fail_from_now_on
    with pytest.raises(EngineError, match="encode failed: an illegal instruction"):
        run_steps(executor)
    assert not device.capturing
    assert any(entry[0] == "abandon_capture" for entry in device.log)


WITHOUT_TORCH = (
    FORBID_TORCH
    + """\
from pathlib import Path
import numpy as np
import flashvsr_trt.runtime.tensorrt.cuda_device
import flashvsr_trt.runtime.tensorrt.engine
import flashvsr_trt.runtime.tensorrt.open
from flashvsr_trt.bundle import read_bundle
from flashvsr_trt.engines.lowering import lower_graph
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from tests.runtime.device_double import DeviceDouble
from tests.runtime.engine_double import RecordedRunner

bundle = read_bundle(Path(sys.argv[1]))
plans = {name: lower_graph(bundle.graph_path(name)).plan for name in bundle.graphs}
device = DeviceDouble()
session = Session(TensorRTExecutor(bundle, plans, RecordedRunner(device), device))
geometry = bundle.stream.geometry
frames = np.zeros((40, geometry.height, geometry.width, 3), np.uint8)
made = [session.push(frames), session.flush()]
assert sum(map(len, made)) == 40
assert "torch" not in sys.modules
"""
)


def test_engines_run_where_torch_cannot_be_imported(bundle):
    command = [sys.executable, "-c", WITHOUT_TORCH, bundle.folder]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
