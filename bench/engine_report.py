"""Engines on this GPU beside torch, in one run: frames, ring, waits, time and memory.

    python -m bench.engine_report [--flavour onnxruntime] [--preset nano ...] [--size 640x384] [-o DIR]

For each preset, in a process of its own, the same frames go through engines, with CUDA graphs and without,
and through torch in the engines' dtype; then `flashvsr-trt run` makes a clip with them. Writes
`engine_report.json` and `engine_report.md`, anew after each step. Ends with status 1 if a check failed.
Weights are random.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from statistics import median
from typing import Any

import av
import click
import numpy as np

from bench.counted_calls import CountingDevice, build_counter, runtime_calls
from bench.engine_tables import markdown, write_report
from flashvsr_trt.bundle import PRECISIONS
from flashvsr_trt.cli.option_types import SizeType
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import DEFAULT_PRESET, UNIT_FRAMES, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.engines.flavours import FLAVOURS
from flashvsr_trt.parity.tensor_error import psnr, thresholds_for
from flashvsr_trt.runtime.backends import EngineOptions, ExecutorRequest, TorchOptions, open_executor
from flashvsr_trt.runtime.session import Session

WEIGHTS = "random:1"
"""Nano's own overflow in float16, in every backend: its frames would be black, and equal."""

CHUNKS = 10
"""Of which frames are compared: past the first step, and twice round the ring."""

WARM_UP_CHUNKS = 12
TIMED_CHUNKS, ROUNDS = 10, 4
RATE = Fraction(24)
WAITS = ("synchronize", "allocate", "free", "copy")
"""Our own calls that a steady chunk must not make. It waits on the host for copies alone."""

RUNTIME_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaMemcpy", "cudaMalloc", "cudaFree")


def moving_frames(width: int, height: int, count: int) -> np.ndarray:
    """FFmpeg's `testsrc2`: uint8 RGB [count, height, width, 3]."""
    with av.open(f"testsrc2=size={width}x{height}:rate={RATE}", format="lavfi") as source:
        frames = (frame.to_ndarray(format="rgb24") for frame in source.decode(video=0))
        return np.stack([frame for frame, _ in zip(frames, range(count), strict=False)])


def write_clip(frames: np.ndarray, path: Path) -> None:
    """H.264, to be upscaled by the command."""
    with av.open(str(path), "w") as clip:
        video = clip.add_stream("libx264", rate=RATE, options={"crf": "12", "preset": "veryfast"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames:
            clip.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        clip.mux(video.encode(None))


def run_command(preset: str, flavour: str, frames: np.ndarray) -> dict[str, Any]:
    """`flashvsr-trt run`, which exports and builds what is missing: its report, and its seconds in all."""
    with tempfile.TemporaryDirectory() as folder:
        clip, output = Path(folder, "clip.mp4"), Path(folder, "clip_2x.mp4")
        write_clip(frames, clip)
        command = [sys.executable, "-m", "flashvsr_trt", "--debug", "run", str(clip), "-o", str(output)]
        command += ["--preset", preset, "--weights", WEIGHTS, "--backend", "tensorrt", "--flavour", flavour]
        command += ["--json", "-"]
        started = time.perf_counter()
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        seconds = time.perf_counter() - started
        report = json.loads(done.stdout) if done.returncode == 0 else None
        return {"command": command[2:], "status": done.returncode, "seconds": seconds, "report": report}


def push_all(session: Session, frames: np.ndarray) -> np.ndarray:
    """A clip, chunk by chunk."""
    made = [session.push(frames[i : i + UNIT_FRAMES]) for i in range(0, len(frames), UNIT_FRAMES)]
    return np.concatenate([*made, session.flush()])


def request_for(
    preset: str, size: tuple[int, int], flavour: str, dtype: str, graphs: bool
) -> ExecutorRequest:
    """What both backends are asked for."""
    width, height = size
    stream = StreamConfig(find_preset(preset), Geometry(height, width, 2), find_schedule("official"))
    return ExecutorRequest(
        stream,
        WEIGHTS,
        dtype=dtype,
        torch=TorchOptions(cuda_graphs=graphs),
        engines=EngineOptions(flavour=flavour),
    )


def open_engines(request: ExecutorRequest, device: CountingDevice) -> Any:
    """The tensorrt backend on a device that counts."""
    from flashvsr_trt.runtime.tensorrt import open as tensorrt_open

    tensorrt_open.CudaDevice = lambda index: device
    return open_executor("tensorrt", request, say)


def measure_engines(
    executor: Any, frames: np.ndarray, graphs: bool
) -> tuple[np.ndarray, dict[str, Any], Any]:
    """Frames of a clip, then what one steady chunk of another calls, by the executor that is open.

    With graphs and without it is the same engines, so that no choice of theirs tells the two apart.
    """
    device = executor.device
    executor.cuda_graphs = graphs
    made = push_all(Session(executor, overlap=True), frames)
    session = Session(executor, overlap=True)
    chunks = chunks_of(frames)
    for _ in range(WARM_UP_CHUNKS):
        session.push(next(chunks))
    device.calls.clear()
    first = runtime_calls()
    for _ in range(CHUNKS):
        session.push(next(chunks))
    second = runtime_calls()
    of_runtime = first and {name: (second[name] - first[name]) / CHUNKS for name in first}
    facts = {
        "graphs_captured": sum(r.cuda_graph is not None for r in session.state.graphs.replays.values()),
        "ring_in_place": ring_in_place(executor, session),
        "calls_a_chunk": {name: device.calls[name] / CHUNKS for name in sorted(device.calls)},
        "runtime_calls_a_chunk": of_runtime,
    }
    return made, facts, session


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


def chunks_of(frames: np.ndarray):
    """Chunks without end."""
    while True:
        for start in range(0, len(frames) - UNIT_FRAMES + 1, UNIT_FRAMES):
            yield frames[start : start + UNIT_FRAMES]


def interleaved_times(sessions: dict[str, Session], frames: np.ndarray) -> tuple[dict, dict]:
    """Milliseconds a steady chunk takes by backend: host memory to host memory by round, and by stage."""
    chunks = chunks_of(frames)
    for session in sessions.values():
        for _ in range(WARM_UP_CHUNKS):
            session.push(next(chunks))
    times: dict[str, list[float]] = {name: [] for name in sessions}
    before = {name: dict(session.executor.stage_seconds()) for name, session in sessions.items()}
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            session.push(next(chunks))
            started = time.perf_counter()
            for _ in range(TIMED_CHUNKS):
                session.push(next(chunks))
            times[name].append((time.perf_counter() - started) * 1000 / TIMED_CHUNKS)
    chunks_run = ROUNDS * (TIMED_CHUNKS + 1)
    stages = {
        name: {
            stage: (seconds - before[name].get(stage, 0.0)) * 1000 / chunks_run
            for stage, seconds in session.executor.stage_seconds().items()
        }
        for name, session in sessions.items()
    }
    return times, stages


def measure_preset(preset: str, size: tuple[int, int], flavour: str) -> dict[str, Any]:
    """Everything of one preset, in this process."""
    precision = FLAVOURS[flavour].precisions[0]
    dtype, limit = PRECISIONS[precision], thresholds_for(precision).frames_psnr
    frames = moving_frames(*size, CHUNKS * UNIT_FRAMES + 21)
    device = CountingDevice()
    before = device.free_and_total_memory()[0]
    started = time.perf_counter()
    executor = open_engines(request_for(preset, size, flavour, dtype, True), device)
    memory = {"seconds_to_open": time.perf_counter() - started}
    memory["loaded"] = before - device.free_and_total_memory()[0]
    on, facts, engine_session = measure_engines(executor, frames, True)
    memory["steady"] = before - device.free_and_total_memory()[0]
    memory |= {
        "estimate": executor.describe()["device_memory_bytes"],
        "estimate_parts": vars(executor.needed),
    }
    say(f"{preset}: engines ran, opened in {memory['seconds_to_open']:.0f} s")
    off, facts_off, plain_session = measure_engines(executor, frames, False)
    say(f"calls a chunk {facts['calls_a_chunk']}, {facts['runtime_calls_a_chunk']}; memory {memory}")
    say(f"graphs on equal to off: {np.array_equal(on, off)}")
    torch_executor = open_executor("torch", request_for(preset, size, "auto", dtype, True), say)
    expected = push_all(Session(torch_executor, overlap=True), frames)
    from torch import cuda

    sessions = {
        "engines": engine_session,
        "engines, graphs off": plain_session,
        "torch": Session(torch_executor, overlap=True),
    }
    times, stages = interleaved_times(sessions, frames)
    quality = psnr(expected, on)
    say(f"{quality:.1f} dB; {times}; {stages}")
    waits = [n for n in WAITS if facts["calls_a_chunk"].get(n)]
    waits += [n for n in RUNTIME_WAITS if (facts["runtime_calls_a_chunk"] or {}).get(n)]
    checks = {
        f"frames within {limit} dB of torch": quality >= limit,
        "graphs on equal to graphs off": bool(np.array_equal(on, off)),
        "state in place": facts["ring_in_place"] and facts_off["ring_in_place"],
        "no wait, allocation or copy in a steady chunk": not waits,
        "memory within the estimate": memory["steady"] <= memory["estimate"],
    }
    return {
        "preset": preset,
        "dtype": dtype,
        "frames_compared": len(on),
        "psnr_to_torch": quality,
        "largest_difference": int(np.abs(on.astype(int) - expected.astype(int)).max()),
        "largest_difference_on_off": int(np.abs(on.astype(int) - off.astype(int)).max()),
        "frames_vary": float(on.std()),
        "ms_a_chunk": {name: median(values) for name, values in times.items()},
        "ms_of_rounds": times,
        "stage_ms": stages,
        "waits": waits,
        "checks": checks,
        "memory": memory,
        "executor": executor.describe(),
        "graphs_on": facts,
        "graphs_off": facts_off,
        "torch": torch_executor.describe(),
        "torch_peak_bytes": cuda.max_memory_reserved(),
    }


def say(line: str) -> None:
    """Progress, on stderr."""
    click.echo(line, err=True)


@click.command()
@click.option("--flavour", type=click.Choice(list(FLAVOURS)), default="onnxruntime", show_default=True)
@click.option("--preset", "presets", multiple=True, default=("nano", DEFAULT_PRESET), show_default=True)
@click.option(
    "--size", type=SizeType(), default="640x384", show_default=True, help="Of the frames that go in."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path("."), show_default=True)
@click.option("--measure", "part", hidden=True, type=click.Path(path_type=Path), help="One preset, in here.")
def main(
    flavour: str, presets: tuple[str, ...], size: tuple[int, int], output: Path, part: Path | None
) -> None:
    """Run, compare and time engines on this GPU."""
    size = size[::-1]
    if part:
        part.write_text(json.dumps(measure_preset(presets[0], size, flavour), default=str))
        return
    from bench.environment import environment

    output.mkdir(parents=True, exist_ok=True)
    named = f"{size[0]}x{size[1]}"
    report = {"environment": environment(), "flavour": flavour, "size": named, "presets": []}
    with tempfile.TemporaryDirectory() as folder:
        preloaded = os.environ | {"LD_PRELOAD": str(build_counter(Path(folder)))}
        for preset in presets:
            result = Path(folder, f"{preset}.json")
            again = [sys.executable, "-m", "bench.engine_report", "--flavour", flavour, "--preset", preset]
            again += ["--size", named, "--measure", str(result)]
            done = subprocess.run(again, env=preloaded, check=False)
            failed = {"preset": preset, "error": f"status {done.returncode}; see the log", "checks": {}}
            row = json.loads(result.read_text()) if result.exists() else failed
            report["presets"].append({"command": None} | row)
            write_report(report, output)
            report["presets"][-1]["command"] = run_command(preset, flavour, moving_frames(*size, 61))
            write_report(report, output)
    say(markdown(report))
    rows = report["presets"]
    whole = all(
        row["checks"] and all(row["checks"].values()) and not row["command"]["status"] for row in rows
    )
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
