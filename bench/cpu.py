"""CPU benchmark: each stage's time, and the decoder against a frame-by-frame run of the published layers.

    python -m bench.cpu [--preset nano] [--size 256x256] [--repeats 21] [--threads N]

Prints JSON. Times are of this machine and this moment; compare them within one run only.
"""

import json
import statistics
import time
from collections.abc import Callable

import click
import torch

from bench.steady_stages import SteadyStages, load_random
from flashvsr_trt.cli.options import SizeType
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import UNIT_FRAMES, find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig, decode_signature
from flashvsr_trt.model.decoder import Decoder, MemBlock, TGrow, condition_cells
from flashvsr_trt.model.weights.random import random_weights
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.host_memory import keep_freed_memory


def decode_frame_by_frame(
    decoder: Decoder, latent: torch.Tensor, condition: torch.Tensor, memory: list[torch.Tensor]
) -> torch.Tensor:
    """The published layers, each run on one frame at a time."""
    frames = list(torch.cat([condition_cells(condition), latent], dim=1).split(1))
    remaining = iter(memory)
    for layer in decoder.decoder:
        if isinstance(layer, MemBlock):
            carried, made = next(remaining), []
            for frame in frames:
                output, carried = layer(frame, carried)
                made.append(output)
            frames = made
        elif isinstance(layer, TGrow):
            frames = [grown for frame in frames for grown in layer(frame).split(1)]
        else:
            frames = [layer(frame) for frame in frames]
    return torch.cat(frames)


def interleaved_medians(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; the calls take turns, so that a slow moment hits them all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(measured[1:]) for name, measured in times.items()}


@torch.no_grad()
def measure(preset_name: str, target: tuple[int, int], repeats: int) -> dict:
    """Seconds of one steady unit (8 frames) by stage, and of the two ways to decode it."""
    keep_freed_memory()
    preset = find_preset(preset_name)
    stream = StreamConfig(preset, Geometry(target[0] // 2, target[1] // 2, 2), find_schedule("low-latency"))
    network = load_random(preset.network, torch.float32, "cpu")
    executor = TorchExecutor(network, stream)
    published = Decoder(preset.network)
    published.load_state_dict(random_weights(preset.network, seed=0)["decoder"])
    stages = SteadyStages(executor)
    latent, condition = stages.latent, stages.condition
    memory = [torch.zeros(spec.shape) for spec in decode_signature(stream).state]

    fast, _ = executor.decode_stage.decoder(latent, condition, memory)
    slow = decode_frame_by_frame(published, latent, condition, memory)
    difference = (fast - slow).abs().max().item()
    if difference > 1e-4:
        raise RuntimeError(f"the two decoders differ by {difference:.3g}: their times say nothing")
    medians = interleaved_medians(
        {
            "encode": stages.encode,
            "dit": stages.dit,
            "decode": stages.decode,
            "decoder": lambda: executor.decode_stage.decoder(latent, condition, memory),
            "decoder_frame_by_frame": lambda: decode_frame_by_frame(published, latent, condition, memory),
        },
        repeats,
    )
    unit = medians["encode"] + medians["dit"] + medians["decode"]
    return {
        "preset": preset.name,
        "target": f"{target[1]}x{target[0]}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": repeats,
        "seconds_per_unit": medians,
        "frames_per_second": UNIT_FRAMES / unit,
        "decoder_speedup_over_frame_by_frame": medians["decoder_frame_by_frame"] / medians["decoder"],
    }


@click.command()
@click.option("--preset", default="nano", show_default=True)
@click.option("--size", "target", type=SizeType(), default="256x256", show_default=True, help="Target size.")
@click.option("--repeats", type=int, default=21, show_default=True)
@click.option("--threads", type=int, help="torch threads.  [default: torch's]")
def main(preset: str, target: tuple[int, int], repeats: int, threads: int | None) -> None:
    """Print the JSON."""
    if threads:
        torch.set_num_threads(threads)
    click.echo(json.dumps(measure(preset, target, repeats), indent=2))


if __name__ == "__main__":
    main()
