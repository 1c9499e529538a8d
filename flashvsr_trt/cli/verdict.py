"""What `doctor` ends with: how large frames can be here, about how fast, and whether engines run."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flashvsr_trt.cli.memory_table import largest_in_one_piece
from flashvsr_trt.config.presets import DEFAULT_PRESET
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.flavours import FLAVOURS
from flashvsr_trt.engines.readiness import readiness

if TYPE_CHECKING:
    import torch

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

    from flashvsr_trt.runtime.torch.device_memory import estimate_on, free_memory

    has_gpu = torch.cuda.is_available()
    on, dtype = (torch.device("cuda"), torch.bfloat16) if has_gpu else (torch.device("cpu"), torch.float32)
    preset = DEFAULT_PRESET if has_gpu else CPU_PRESET
    largest = largest_in_one_piece(preset, estimate_on(on, dtype), free_memory(on))
    size = f"up to {largest} at 2x in one piece" if largest else "no frame in one piece"
    fps = multiplied_flop_per_second(on, dtype) / PACES[on.type].flop_per_pixel / (SHOWN[0] * SHOWN[1])
    speed = f"about {fps:.2g} FPS at {SHOWN[1]}x{SHOWN[0]}, estimated from a product of matrices"
    return f"this machine: {preset} {size}, larger frames in tiles; {speed}; engines: {_engines(device)}"


def multiplied_flop_per_second(on: "torch.device", dtype: "torch.dtype") -> float:
    """Of products of square matrices."""
    import torch
    from torch.utils.benchmark import Timer

    side, rounds = PACES[on.type].side, PACES[on.type].rounds
    one = torch.rand(side, side, device=on, dtype=dtype)
    timer = Timer(
        "torch.mm(one, one)", globals={"torch": torch, "one": one}, num_threads=torch.get_num_threads()
    )
    return 2 * side**3 / timer.timeit(rounds).mean


def _engines(device: Device | None) -> str:
    found = {name: readiness(flavour, device) for name, flavour in FLAVOURS.items()}
    running = [name for name, each in found.items() if each.runs_on]
    if running:
        return f"yes, {' and '.join(running)}"
    builds = [name for name, each in found.items() if each.builds]
    why = next((each.why_not_run for each in found.values()), "")
    return f"no, {why}" + (f"; {' and '.join(builds)} can be built for other machines" if builds else "")
