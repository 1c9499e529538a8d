"""What `engine_report` measures of a preset, part by part: each is kept as soon as it is there."""

import json
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np

from bench.counted_calls import runtime_calls
from bench.moving_clip import moving_frames
from flashvsr_trt.bundle import PRECISIONS
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import UNIT_FRAMES, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.files.new import write_text
from flashvsr_trt.parity.tensor_error import psnr, thresholds_for
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.request import EngineOptions, ExecutorRequest, TorchOptions
from flashvsr_trt.runtime.session import Session

WEIGHTS = "random:1"
"""Of every preset, so that nothing has to be fetched."""

WAITS = ("synchronize", "allocate", "free", "copy")
"""Our own calls that a steady chunk must not make. It waits on the host for copies alone."""

RUNTIME_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpy", "cudaMalloc", "cudaFree")


@dataclass(frozen=True)
class Extent:
    """How many chunks are run.

    `settled`: before any is counted or timed: every step of the ring of 4 and of the places is captured then.
    `compared`: with torch, and counted. `timed`: in each of `rounds` rounds. `by_graph`: graph by graph.
    """

    settled: int = 12
    compared: int = 10
    timed: int = 10
    rounds: int = 4
    by_graph: int = 4


@dataclass
class Measurement:
    """One preset's engines and torch, opened once and shared by the parts.

    Attributes:
        open_engines: the engines' executor, for a request; a dry run gives one on doubles.
        path: of the JSON that is written anew after every part.
    """

    request: ExecutorRequest
    precision: str
    frames: np.ndarray
    extent: Extent
    device: Any
    open_engines: Callable[[ExecutorRequest, Any], Any]
    path: Path
    row: dict[str, Any]
    executor: Any = None
    torch_executor: Any = None
    sessions: dict[str, Session] = field(default_factory=dict)
    made: dict[str, np.ndarray] = field(default_factory=dict)

    def run(self) -> None:
        """Every part in turn. One that fails is told in the row, and the others go on with what is there."""
        for part in PARTS:
            name = part.__name__
            say(f"{self.row['preset']}: {name}")
            started = time.perf_counter()
            try:
                part(self)
            except Exception as error:
                # Whatever it is: on a lent machine the parts that hold must not be lost with it.
                self.row["failed"][name] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            self.row["seconds"][name] = round(time.perf_counter() - started, 2)
            self.write()

    def write(self) -> None:
        """Keep the row."""
        write_text(self.path, json.dumps(self.row, indent=1, default=str) + "\n", overwrite=True)


def measure_preset(
    preset: str,
    size: tuple[int, int],
    flavour: str,
    precision: str,
    extent: Extent,
    device: Any,
    open_engines: Callable[[ExecutorRequest, Any], Any],
    path: Path,
    dry_run: bool = False,
) -> dict[str, Any]:
    """The row of one preset, which is in the file at `path` all the while.

    Args:
        size: width and height of the frames that go in.
        device: counts its calls.
    """
    width, height = size
    stream = StreamConfig(find_preset(preset), Geometry(height, width, 2), find_schedule("official"))
    request = ExecutorRequest(
        stream, WEIGHTS, dtype=PRECISIONS[precision], engines=EngineOptions(flavour=flavour)
    )
    row: dict[str, Any] = {
        "preset": preset,
        "dtype": request.dtype,
        "checks": {},
        "failed": {},
        "seconds": {},
    }
    row["on_gpu"] = not dry_run
    frames = moving_frames(width, height, extent.compared * UNIT_FRAMES + 21)
    measurement = Measurement(request, precision, frames, extent, device, open_engines, path, row)
    measurement.run()
    return row


def open_the_engines(run: Measurement) -> None:
    """Export and build what is missing, load it, and say how much memory that takes."""
    free = run.device.free_and_total_memory()[0]
    started = time.perf_counter()
    run.executor = run.open_engines(run.request, run.device)
    run.row["seconds_to_open"] = time.perf_counter() - started
    run.row["free_before_bytes"] = free
    run.row["loaded_bytes"] = free - run.device.free_and_total_memory()[0]


def graphs_on(run: Measurement) -> None:
    """Frames of a clip with CUDA graphs, then what a steady chunk of another calls."""
    run.row["graphs_on"] = facts = run_engines(run, "engines", True)
    memory = run.row["free_before_bytes"] - run.device.free_and_total_memory()[0]
    needed = run.executor.needed
    run.row |= {"steady_bytes": memory, "estimate_bytes": needed.total, "estimate_parts": vars(needed)}
    waits = [name for name in WAITS if facts["calls_a_chunk"].get(name)]
    waits += [name for name in RUNTIME_WAITS if (facts["runtime_calls_a_chunk"] or {}).get(name)]
    run.row["waits"] = waits
    run.row["checks"] |= {
        "state in place": facts["ring_in_place"],
        "no wait, allocation or copy in a steady chunk": not waits,
        "memory within the estimate": memory <= needed.total,
    }


def graphs_off(run: Measurement) -> None:
    """The same engines without graphs, so that no choice of theirs tells the two apart."""
    run.row["graphs_off"] = facts = run_engines(run, "engines, graphs off", False)
    on, off = run.made["engines"], run.made["engines, graphs off"]
    again = push_all(Session(run.executor, overlap=True), run.frames)
    run.row["largest_difference_on_off"] = int(np.abs(on.astype(int) - off.astype(int)).max())
    run.row["largest_difference_again"] = int(np.abs(again.astype(int) - off.astype(int)).max())
    run.row["checks"]["a clip comes out the same again"] = bool(np.array_equal(again, off))
    run.row["checks"]["graphs on equal to graphs off"] = bool(np.array_equal(on, off))
    run.row["checks"]["state in place without graphs"] = facts["ring_in_place"]


def frames_of_torch(run: Measurement) -> None:
    """The same clip by the torch backend in the engines' dtype."""
    request = ExecutorRequest(
        run.request.stream,
        WEIGHTS,
        dtype=run.request.dtype,
        torch=TorchOptions(cuda_graphs=run.row["on_gpu"]),
    )
    run.torch_executor = open_executor("torch", request, say)
    expected = push_all(Session(run.torch_executor, overlap=True), run.frames)
    run.sessions["torch"] = Session(run.torch_executor, overlap=True)
    made, limit = run.made["engines"], thresholds_for(run.precision).frames_psnr
    quality = psnr(expected, made)
    run.row |= {
        "frames_compared": len(made),
        "psnr_to_torch": quality,
        "largest_difference": int(np.abs(made.astype(int) - expected.astype(int)).max()),
        "frames_vary": float(made.std()),
        "torch": run.torch_executor.describe(),
    }
    run.row["checks"][f"frames within {limit} dB of torch"] = quality >= limit
    run.row["checks"]["frames are a picture"] = float(expected.std()) > 1


def times(run: Measurement) -> None:
    """Milliseconds a steady chunk takes by backend, interleaved: host memory to host memory, and by stage."""
    chunks = chunks_of(run.frames)
    for session in run.sessions.values():
        for _ in range(run.extent.settled):
            session.push(next(chunks))
    rounds: dict[str, list[float]] = {name: [] for name in run.sessions}
    before = {name: dict(session.executor.stage_seconds()) for name, session in run.sessions.items()}
    for _ in range(run.extent.rounds):
        for name, session in run.sessions.items():
            session.push(next(chunks))
            started = time.perf_counter()
            for _ in range(run.extent.timed):
                session.push(next(chunks))
            rounds[name].append((time.perf_counter() - started) * 1000 / run.extent.timed)
    count = run.extent.rounds * (run.extent.timed + 1)
    stages = {
        name: {
            stage: (seconds - before[name].get(stage, 0.0)) * 1000 / count
            for stage, seconds in session.executor.stage_seconds().items()
        }
        for name, session in run.sessions.items()
    }
    medians = {name: median(values) for name, values in rounds.items()}
    run.row |= {"ms_a_chunk": medians, "ms_of_rounds": rounds, "stage_ms": stages}
    run.row["executor"] = run.executor.describe()


def peak_of_torch(run: Measurement) -> None:
    """What torch's allocator held at most, in this process."""
    from torch import cuda

    run.row["torch_peak_bytes"] = cuda.max_memory_reserved() if run.row["on_gpu"] else None


def parity_by_graph(run: Measurement) -> None:
    """Every graph on the reference's inputs: where frames differ, it says in which."""
    from flashvsr_trt.parity.check import bundle_network, check_engines

    run.sessions.clear()
    network = bundle_network(run.executor.bundle, device="cuda" if run.row["on_gpu"] else "cpu")
    report = check_engines(run.executor, network, run.extent.by_graph * UNIT_FRAMES - 3).report
    run.row["parity"] = report.as_dict()
    run.row["checks"]["every tensor of every graph within the parity thresholds"] = not report.exceeded


PARTS = (
    open_the_engines,
    graphs_on,
    graphs_off,
    frames_of_torch,
    times,
    peak_of_torch,
    parity_by_graph,
)


def run_engines(run: Measurement, name: str, graphs: bool) -> dict[str, Any]:
    """Keeps the frames of a clip and an open session by `name`; what a steady chunk calls."""
    executor, device = run.executor, run.device
    executor.cuda_graphs = graphs
    run.made[name] = push_all(Session(executor, overlap=True), run.frames)
    session = run.sessions[name] = Session(executor, overlap=True)
    chunks = chunks_of(run.frames)
    for _ in range(run.extent.settled):
        session.push(next(chunks))
    device.calls.clear()
    first = runtime_calls()
    for _ in range(run.extent.compared):
        session.push(next(chunks))
    calls, second = dict(device.calls), runtime_calls()
    count = run.extent.compared
    return {
        "graphs_captured": sum(r.cuda_graph is not None for r in session.state.graphs.replays.values()),
        "ring_in_place": ring_in_place(executor, session),
        "calls_a_chunk": {called: calls[called] / count for called in sorted(calls)},
        "runtime_calls_a_chunk": first and {key: (second[key] - first[key]) / count for key in first},
    }


def push_all(session: Session, frames: np.ndarray) -> np.ndarray:
    """A clip, chunk by chunk."""
    made = [session.push(frames[i : i + UNIT_FRAMES]) for i in range(0, len(frames), UNIT_FRAMES)]
    return np.concatenate([*made, session.flush()])


def ring_in_place(executor: Any, session: Session) -> bool:
    """Whether every step's new keys and values are written at a slot of the ring itself."""
    memory = session.state.memory
    for key, replay in session.state.graphs.replays.items():
        if key[0] != "dit":
            continue
        for spec in executor.signatures["dit"].outputs:
            if spec.becomes and replay.bound.addresses[spec.name] != memory.part(spec.becomes.name, key[1]):
                return False
    return True


def chunks_of(frames: np.ndarray) -> Iterator[np.ndarray]:
    """Chunks without end."""
    while True:
        for start in range(0, len(frames) - UNIT_FRAMES + 1, UNIT_FRAMES):
            yield frames[start : start + UNIT_FRAMES]


def say(line: str) -> None:
    """Progress, on stderr."""
    click.echo(line, err=True)
