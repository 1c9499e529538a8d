"""PSNR on clips of held-out pictures, degraded and clean, beside bicubic.

python -m training.evaluate WEIGHTS.safetensors --data build/training-data/cache [--json FILE]
"""

import json
from pathlib import Path

import click
import torch

from flashvsr_trt.config.presets import SCHEDULES, UNIT_FRAMES, UNIT_LATENT_FRAMES, find_preset
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.model.decoder import WARM_UP_FRAMES
from flashvsr_trt.model.weights.bundle import read_bundle
from training.batches import film_pictures, step_generator, stream_for
from training.degrade import CLEAN, TYPICAL, Damage, degrade, make_smaller, to_bytes
from training.network import (
    TrainableNetwork,
    clip_frames,
    decode,
    denoise,
    encode,
    latent_size,
    upscale_frames,
)
from training.pictures import HELD_OUT, load_pictures

LUMA = (0.299, 0.587, 0.114)
DAMAGES = {"clean": CLEAN, "degraded": TYPICAL}


@torch.no_grad()
def evaluate(
    network: TrainableNetwork,
    pictures: list[torch.Tensor],
    preset: str,
    side: int = 256,
    units: int = 6,
    seed: int = 1,
) -> list[dict]:
    """A row for each damage and schedule: mean luma PSNR of ours and bicubic, in dB.

    `border` is how much worse (negative) the frames beside a chunk border are than the rest, less the same of
    bicubic; `other_noise` and `no_latent` how our PSNR changes with other
    noise, and with zeros for the DiT's latent.
    """
    rows = []
    for name, damage in DAMAGES.items():
        for schedule in range(len(SCHEDULES)):
            parts = [
                _evaluate_clip(network, picture, damage, (preset, side, units, schedule), seed + index)
                for index, picture in enumerate(pictures)
            ]
            mean = {key: sum(part[key] for part in parts) / len(parts) for key in parts[0]}
            row = {"input": name, "schedule": SCHEDULES[schedule].name, "clips": len(parts), **mean}
            rows.append(row | {"gain": mean["ours"] - mean["bicubic"]})
    return rows


def _evaluate_clip(
    network: TrainableNetwork, picture: torch.Tensor, damage: Damage, sizes: tuple, seed: int
) -> dict[str, float]:
    preset, side, units, schedule = sizes
    stream = stream_for(preset, side, 2, schedule)
    device = picture.device
    # The same film for every damage and schedule: they are compared with each other.
    frames = clip_frames(units, stream_for(preset, side, 2, 0))
    sharp = film_pictures([picture], side, frames, step_generator(seed, 0))[:, : clip_frames(units, stream)]
    drawn = torch.Generator(device).manual_seed(seed)
    given = upscale_frames(degrade(make_smaller(sharp, 2), [damage], drawn), stream)
    shown = sharp.shape[1] - stream.schedule.lookahead
    target = luma(to_bytes(sharp[:, :shown])[0])
    size = latent_size(stream, 1, units)
    noise, other = (torch.randn(size, generator=drawn, device=device) for _ in range(2))
    ours = psnr(network_luma(network, given, noise, stream), target)
    bicubic = psnr(luma(to_bytes((given + 1) / 2)[0, :shown]), target)
    other_noise = psnr(network_luma(network, given, other, stream), target)
    no_latent = psnr(network_luma(network, given, None, stream), target)
    place = (torch.arange(shown) + WARM_UP_FRAMES) % UNIT_FRAMES
    border = (place == 0) | (place == UNIT_FRAMES - 1)
    border[[0, -1]] = False
    excess = ours - bicubic
    return {
        "ours": float(ours.mean()),
        "bicubic": float(bicubic.mean()),
        "border": float(excess[border].mean() - excess[~border].mean()),
        "other_noise": float((other_noise - ours).mean()),
        "no_latent": float((no_latent - ours).mean()),
    }


def network_luma(
    network: TrainableNetwork, given: torch.Tensor, noise: torch.Tensor | None, stream: StreamConfig
) -> torch.Tensor:
    """Luma of the frames as bytes, truncated as the last stage does. Without noise the latent is zero."""
    condition, tokens = encode(network.projector, given, stream)
    if noise is None:
        latent = condition.new_zeros(latent_size(stream, 1, tokens.shape[1] // UNIT_LATENT_FRAMES))
    else:
        latent = denoise(network.dit, network.prompt, noise, tokens, stream)
    made = decode(network.decoder, latent, condition, stream)[0]
    levels = ((made + 1) * 127.5).clamp(0, 255).floor()
    return luma(levels.permute(0, 2, 3, 1))


def luma(frames: torch.Tensor) -> torch.Tensor:
    """[T, H, W, 3] levels -> [T, H, W] float32 (BT.601, full range)."""
    return frames.float() @ torch.tensor(LUMA, device=frames.device)


def psnr(frames: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Per frame, in dB: [T, H, W] levels each -> [T] on the CPU."""
    error = (frames - target).square().mean(dim=(1, 2)).clamp(min=1e-6)
    return (10 * torch.log10(255**2 / error)).cpu()


def table(rows: list[dict]) -> str:
    """The rows for people."""
    lines = ["input     schedule     ours   bicubic  gain    border  other noise  no latent"]
    for row in rows:
        lines.append(
            f"{row['input']:9} {row['schedule']:12} {row['ours']:.2f}  {row['bicubic']:.2f}   "
            f"{row['gain']:+.2f}   {row['border']:+.2f}   {row['other_noise']:+.3f}       "
            f"{row['no_latent']:+.2f}"
        )
    return "\n".join(lines)


def picture_tensors(pictures: list, device: torch.device) -> list[torch.Tensor]:
    """uint8 [H, W, 3] arrays -> [3, H, W] on the device."""
    return [torch.from_numpy(picture.copy()).permute(2, 0, 1).contiguous().to(device) for picture in pictures]


@click.command()
@click.argument("weights", type=click.Path(exists=True, path_type=Path))
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True, help="Cache of fetch.")
@click.option("--preset", default="nano", show_default=True)
@click.option("--side", default=256, show_default=True, help="Target pixels a side, a multiple of 128.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "report", type=click.Path(path_type=Path), help="Also write the rows here.")
def main(weights: Path, data: Path, preset: str, side: int, device: str, report: Path | None) -> None:
    """Print the table."""
    parts = read_bundle(weights)
    network = TrainableNetwork(find_preset(preset).network, parts).to(device)
    rows = evaluate(network, picture_tensors(load_pictures(data, HELD_OUT), device), preset, side)
    click.echo(table(rows))
    if report:
        report.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
