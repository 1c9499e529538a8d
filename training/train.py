"""Training of a small network on synthetic clips, in the streaming protocol.

On two cores:

    python -m training.fetch
    python -m training.train --data build/training-data/cache --out build/training --seconds 7000 \\
        --clips 1 --side 128

On a GPU: see `training/README.md`. A run that is started again in the same --out goes on from its checkpoint;
so does one that was stopped by Ctrl-C.
"""

import copy
import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import click
import torch

from flashvsr_trt.config.presets import find_preset
from flashvsr_trt.files.new import new_file, write_text
from flashvsr_trt.model.weights.bundle import (
    BundleInfo,
    content_sha256,
    network_json,
    read_bundle,
    write_bundle,
)
from flashvsr_trt.model.weights.load import UNPUBLISHED
from flashvsr_trt.signals import Ended, ended_by_signals, exit_code
from training.batches import Batch, BatchConfig, make_batch
from training.evaluate import evaluate, picture_tensors, table
from training.graphs import ReplayedSteps
from training.initialise import initial_network
from training.losses import LossWeights, clip_loss
from training.network import TrainableNetwork
from training.pictures import HELD_OUT, TRAIN, load_pictures
from training.prefetch import MakingThreads, steps_from
from training.procedural import procedural_picture
from training.step_log import PARTS, StepLog

DRAWN_PICTURES = 24
WARM_UP_STEPS = 30
EMA_DECAY = 0.999
GRADIENT_NORM = 0.5
PLAIN_LOSS = LossWeights()
CHECKPOINT, LOG, WEIGHTS, EVALUATION = "checkpoint.pt", "log.jsonl", "weights.safetensors", "evaluation.json"


@dataclass
class Run:
    """What a checkpoint holds."""

    network: TrainableNetwork
    average: TrainableNetwork
    optimiser: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0


def learning_rate(peak: float, step: int, progress: float) -> float:
    """Linear warm-up, then a cosine to a fiftieth of the peak."""
    cosine = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))
    return peak * cosine * min(1.0, (step + 1) / WARM_UP_STEPS)


def new_run(network: TrainableNetwork, peak: float) -> Run:
    """A run of this network at step 0."""
    device = network.prompt.device
    optimiser = torch.optim.AdamW(
        network.parameters(),
        # A tensor, which a captured step reads anew each time.
        lr=torch.tensor(peak, device=device),
        betas=(0.9, 0.99),
        weight_decay=1e-4,
        fused=True,
        capturable=device.type == "cuda",
    )
    return Run(network, copy.deepcopy(network), optimiser)


def optimise(run: Run, batch: Batch, weights: LossWeights, amp: bool) -> torch.Tensor:
    """One optimiser step: PARTS of the loss and the gradient's norm, as one tensor that nobody waited for."""
    run.optimiser.zero_grad(set_to_none=True)
    with torch.autocast(batch.upscaled.device.type, torch.bfloat16, enabled=amp):
        made = run.network(batch.upscaled, batch.noise, batch.stream)
    parts = clip_loss(made, batch.target, weights)
    parts["total"].backward()
    norm = torch.nn.utils.clip_grad_norm_(run.network.parameters(), GRADIENT_NORM)
    # A gradient that is no number would end the run's use: the fused optimiser leaves such a step out, as it
    # does for torch.amp.GradScaler, and the log shows it.
    run.optimiser.found_inf = (~torch.isfinite(norm)).float()
    run.optimiser.step()
    return torch.stack([*(parts[name].detach() for name in PARTS), norm])


@torch.no_grad()
def update_average(run: Run) -> None:
    """Move the average towards the network, at first faster."""
    decay = min(EMA_DECAY, (1 + run.step) / (10 + run.step))
    torch._foreach_lerp_(list(run.average.parameters()), list(run.network.parameters()), 1 - decay)


def save(run: Run, folder: Path) -> None:
    """Write the checkpoint; it takes the place of the last one when it is complete."""
    state = {
        "network": run.network.state_dict(),
        "average": run.average.state_dict(),
        "optimiser": run.optimiser.state_dict(),
        "step": run.step,
        "seconds": run.seconds,
    }
    with new_file(folder / CHECKPOINT, overwrite=True) as file:
        torch.save(state, file.file)
        file.finish()


def restore(run: Run, folder: Path) -> bool:
    """Continue from the folder's checkpoint; False where there is none."""
    path = folder / CHECKPOINT
    if not path.exists():
        return False
    device = next(run.network.parameters()).device
    state = torch.load(path, map_location=device, weights_only=True)
    run.network.load_state_dict(state["network"])
    run.average.load_state_dict(state["average"])
    run.optimiser.load_state_dict(state["optimiser"])
    run.step, run.seconds = state["step"], state["seconds"]
    return True


def write_weights(network: TrainableNetwork, preset: str, source: str, path: Path) -> None:
    """The network as a float16 bundle."""
    parts = network.parts(torch.float16)
    digests = {part: content_sha256(tensors) for part, tensors in parts.items()}
    config = network_json(find_preset(preset).network)
    write_bundle(path, parts, BundleInfo(UNPUBLISHED, source, config, digests, digests), overwrite=True)


def train(
    run: Run,
    batches: Iterator[Batch],
    steps: int,
    seconds: float,
    peak: float,
    folder: Path,
    weights: LossWeights = PLAIN_LOSS,
    amp: bool = False,
    replay_with: MakingThreads | None = None,
    save_every: float = 120,
) -> list[dict]:
    """Train until `steps` or `seconds` are used up, and save, also when it is cut short; the log's lines.

    `batches` begin with that of `run.step`. With `replay_with`, the threads that make them, steps are CUDA
    graphs.
    """

    def step(batch: Batch) -> torch.Tensor:
        return optimise(run, batch, weights, amp)

    take = ReplayedSteps(step, replay_with) if replay_with else step
    before, started = run.seconds, time.monotonic()
    saved = started
    with (folder / LOG).open("a") as file:
        log = StepLog(file)
        try:
            while run.step < steps and run.seconds < seconds:
                progress = max(run.step / steps, run.seconds / seconds)
                rate = learning_rate(peak, run.step, progress)
                for group in run.optimiser.param_groups:
                    group["lr"].fill_(rate)
                parts = take(next(batches))
                update_average(run)
                run.seconds = before + time.monotonic() - started
                log.add({"step": run.step, "rate": rate, "seconds": round(run.seconds, 2)}, parts)
                run.step += 1
                if time.monotonic() - saved > save_every:
                    save(run, folder)
                    saved = time.monotonic()
        finally:
            log.flush()
            save(run, folder)
    return log.lines


@click.command()
@click.option(
    "--data", type=click.Path(exists=True, path_type=Path), help="Cache of fetch; none: drawn pictures."
)
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Checkpoint, log, weights, evaluation."
)
@click.option("--preset", default="nano", show_default=True)
@click.option("--steps", default=100_000, show_default=True, help="At most so many.")
@click.option(
    "--seconds", default=7000.0, show_default=True, help="At most so long, without set-up and evaluation."
)
@click.option("--clips", default=1, show_default=True, help="Clips in a batch.")
@click.option("--side", default=128, show_default=True, help="Target pixels a side, a multiple of 128.")
@click.option("--units", default=5, show_default=True, help="Units of 8 frames in a clip, 3 or more.")
@click.option("--scale4-share", default=0.1, show_default=True, help="Share of the steps that upscale 4x.")
@click.option("--clean-share", default=0.25, show_default=True, help="Share of clips that are not degraded.")
@click.option("--square", default=0.0, show_default=True, help="Weight of the squared error in the loss.")
@click.option(
    "--large-share",
    default=0.0,
    show_default=True,
    help="Share of the steps with clips of twice the side, a quarter as many.",
)
@click.option("--uses", default=1, show_default=True, help="Steps that show the same clips, turned.")
@click.option("--threads", default=0, show_default=True, help="Threads that make batches ahead.")
@click.option("--rate", default=5e-4, show_default=True, help="Peak learning rate.")
@click.option("--seed", default=0, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--evaluation-side", default=256, show_default=True, help="Target side of held-out clips.")
@click.option(
    "--start-from",
    type=click.Path(exists=True, path_type=Path),
    help="Weights of an earlier run (a bundle) instead of fitted ones; the optimiser starts anew.",
)
@click.option("--amp/--no-amp", default=False, help="bfloat16 autocast.  [default: float32, TF32 on a GPU]")
@click.option("--cuda-graphs/--no-cuda-graphs", default=False, help="Replay steps instead of launching them.")
def main(
    data: Path | None,
    out: Path,
    preset: str,
    steps: int,
    seconds: float,
    clips: int,
    side: int,
    units: int,
    scale4_share: float,
    clean_share: float,
    square: float,
    large_share: float,
    uses: int,
    threads: int,
    rate: float,
    seed: int,
    device: str,
    evaluation_side: int,
    start_from: Path | None,
    amp: bool,
    cuda_graphs: bool,
) -> None:
    """Train, write the averaged weights as a bundle, and print their evaluation on held-out pictures."""
    chosen = torch.device(
        "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    )
    out.mkdir(parents=True, exist_ok=True)
    photographs = picture_tensors(load_pictures(data, TRAIN) if data else [], chosen)
    drawn = picture_tensors([procedural_picture(number) for number in range(DRAWN_PICTURES)], chosen)
    codec = find_spec("av") is not None
    if not codec:
        click.echo("PyAV is not installed: clips are compressed as JPEG only, not as video")
    config = BatchConfig(
        preset, clips, side, units, seed, scale4_share, codec, clean_share, large_share, uses
    )

    def make(number: int) -> Batch:
        return make_batch(photographs, drawn, config, number)

    if start_from:
        network = TrainableNetwork(find_preset(preset).network, read_bundle(start_from)).to(chosen)
    else:
        fitting = make_batch(photographs, drawn, BatchConfig(preset, 8, 128, units, seed), 0)
        network = initial_network(fitting.stream, fitting.upscaled, seed)
    run = new_run(network, rate)
    # After the fit, whose normal equations need all of float32.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = chosen.type == "cuda"
    count = sum(parameter.numel() for parameter in run.network.parameters())
    click.echo(f"{count} parameters on {chosen}, torch {torch.__version__}")
    if restore(run, out):
        click.echo(f"goes on from step {run.step}")
    making = MakingThreads(threads)
    batches = steps_from(make, run.step, uses, making, chosen)
    try:
        with ended_by_signals(), closing(batches):
            train(
                run,
                batches,
                steps,
                seconds,
                rate,
                out,
                LossWeights(square=square),
                amp,
                making if cuda_graphs else None,
            )
    except Ended as ended:
        if ended.number != signal.SIGINT:
            click.echo(f"ended by {ended} at step {run.step}; the same command goes on from there", err=True)
            sys.exit(exit_code(ended))
        click.echo(f"stopped at step {run.step}; the same command goes on from there", err=True)
    source = (
        f"training.train --preset {preset} --seed {seed}: {run.step} steps of {clips} clips of {side}x{side}"
    )
    write_weights(run.average, preset, source, out / WEIGHTS)
    pictures = picture_tensors(load_pictures(data, HELD_OUT), chosen) if data else drawn[:2]
    rows = evaluate(run.average, pictures, preset, evaluation_side)
    write_text(out / EVALUATION, json.dumps(rows, indent=1) + "\n", overwrite=True)
    click.echo(table(rows))


if __name__ == "__main__":
    main()
