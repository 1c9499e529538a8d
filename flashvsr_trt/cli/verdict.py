"""What `doctor` ends with: how large frames can be here, about how fast, and whether engines run."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import DEFAULT_PRESET, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.flavours import FLAVOURS
from flashvsr_trt.engines.readiness import readiness
from flashvsr_trt.memory import largest_that_fits

if TYPE_CHECKING:
    import torch

LARGEST = (4320, 7680)
"""Height and width beyond which nothing is looked for."""

SHOWN = (768, 1280)
"""Height and width of the upscaled frame that a speed is told for."""

CPU_PRESET = "nano"


@dataclass(frozen=True)
class Pace:
    """How fast matrices are multiplied to find how fast frames are made.

    Attributes:
        side: of the matrices.
        rounds: products that are timed.
        flop_per_pixel: so many operations of such a product take as long as a pixel of an output. It is
            measured: FPS and the time of a product on the same machine at the same time.
    """

    side: int
    rounds: int
    flop_per_pixel: float


PACES = {"cuda": Pace(8192, 20, 1.0e7), "cpu": Pace(1024, 3, 1.2e5)}
"""By the kind of device: of DEFAULT_PRESET in bfloat16 and of CPU_PRESET in float32, on torch.

On an H200 a product has 768 TFLOP/s, where 1344x768 runs at 72 FPS (bench/results/h200).
"""


def verdict(device: Device | None) -> str:
    """One line. Needs torch, and loads no weights."""
    import torch

    on = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset = DEFAULT_PRESET if on.type == "cuda" else CPU_PRESET
    largest = _largest(preset, on)
    size = f"up to {largest[1]}x{largest[0]} at 2x in one piece" if largest else "no frame in one piece"
    fps = multiplied_flop_per_second(on) / PACES[on.type].flop_per_pixel / (SHOWN[0] * SHOWN[1])
    speed = f"about {fps:.2g} FPS at {SHOWN[1]}x{SHOWN[0]}, estimated from a product of matrices"
    return f"this machine: {preset} {size}, larger frames in tiles; {speed}; engines: {_engines(device)}"


def multiplied_flop_per_second(on: "torch.device") -> float:
    """Of products of square matrices, in bfloat16 on a GPU and in float32 on a CPU."""
    import torch

    pace = PACES[on.type]
    dtype = torch.bfloat16 if on.type == "cuda" else torch.float32
    one = torch.rand(pace.side, pace.side, device=on, dtype=dtype)
    torch.mm(one, one)
    _wait(on)
    began = time.perf_counter()
    for _ in range(pace.rounds):
        torch.mm(one, one)
    _wait(on)
    return 2 * pace.side**3 * pace.rounds / (time.perf_counter() - began)


def _wait(on: "torch.device") -> None:
    import torch

    if on.type == "cuda":
        torch.cuda.synchronize(on)


def _largest(preset: str, on: "torch.device") -> tuple[int, int] | None:
    import torch

    from flashvsr_trt.runtime.torch.device import estimate_on, free_memory

    estimate = estimate_on(on, torch.bfloat16 if on.type == "cuda" else torch.float32)
    stream = StreamConfig(
        find_preset(preset), Geometry(LARGEST[0] // 2, LARGEST[1] // 2, 2), find_schedule("official")
    )
    return largest_that_fits(stream, lambda smaller: estimate(smaller, None), free_memory(on))


def _engines(device: Device | None) -> str:
    found = {name: readiness(flavour, device) for name, flavour in FLAVOURS.items()}
    running = [name for name, each in found.items() if each.runs_on]
    if running:
        return f"yes, {' and '.join(running)}"
    builds = [name for name, each in found.items() if each.builds]
    why = next((each.why_not_run for each in found.values()), "")
    return f"no, {why}" + (f"; {' and '.join(builds)} can be built for other machines" if builds else "")
