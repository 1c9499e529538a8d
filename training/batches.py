"""Batches of clips: a function of the pictures, the seed and the step, so a resumed run sees the same."""

from dataclasses import dataclass, replace

import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import SCHEDULES, find_preset
from flashvsr_trt.config.signatures import StreamConfig
from training.degrade import degrade, draw_damage, make_smaller
from training.motion import camera_path, film, part_side, picture_part
from training.network import clip_frames, latent_size, upscale_frames


@dataclass(frozen=True)
class BatchConfig:
    """Sizes of a batch. `side` is of the target, a multiple of 128; `units` of 8 frames make a clip.

    `codec`: some clips are compressed by a video codec, through PyAV.
    `clean_share`: clips that are only made smaller.
    `large_share`: steps whose clips have twice the side, and are a quarter as many.
    `uses`: steps that show the same clips, each time flipped and turned another way, with other noise.
    """

    preset: str
    clips: int
    side: int
    units: int
    seed: int
    scale4_share: float = 0.0
    codec: bool = False
    clean_share: float = 0.25
    large_share: float = 0.0
    uses: int = 1


@dataclass(frozen=True)
class Batch:
    """Upscaled clips [clips, T, 3, tH, tW] and target [clips, 8*units - 3, 3, tH, tW], float32 in [-1, 1]."""

    upscaled: torch.Tensor
    target: torch.Tensor
    noise: torch.Tensor
    stream: StreamConfig

    @property
    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """What a step reads."""
        return self.upscaled, self.target, self.noise


def step_generator(seed: int, step: int) -> torch.Generator:
    """Random numbers of one step, whatever was drawn before."""
    return torch.Generator().manual_seed((seed << 32) + step)


def stream_for(preset: str, side: int, scale: int, schedule: int) -> StreamConfig:
    """A square stream of this target side."""
    return StreamConfig(
        find_preset(preset), Geometry(side // scale, side // scale, scale), SCHEDULES[schedule]
    )


def make_batch(
    photographs: list[torch.Tensor], drawn: list[torch.Tensor], config: BatchConfig, step: int
) -> Batch:
    """Clips of step `step`: four of five from photographs where there are any, on the pictures' device.

    Args:
        photographs, drawn: uint8 [3, H, W] each.
    """
    generator = step_generator(config.seed, step)
    uniform = torch.rand(3, generator=generator).tolist()
    scale = 4 if uniform[0] < config.scale4_share else 2
    large = uniform[2] < config.large_share
    side, clips = (config.side * 2, max(1, config.clips // 4)) if large else (config.side, config.clips)
    stream = stream_for(config.preset, side, scale, int(uniform[1] * len(SCHEDULES)))
    chosen = [choose_picture(photographs, drawn, generator) for _ in range(clips)]
    device = chosen[0].device
    on_device = torch.Generator(device).manual_seed(generator.initial_seed())
    sharp = film_pictures(chosen, side, clip_frames(config.units, stream), generator)
    damages = [draw_damage(generator, config.codec, config.clean_share) for _ in chosen]
    frames = degrade(make_smaller(sharp, scale), damages, on_device)
    shown = sharp.shape[1] - stream.schedule.lookahead
    noise = torch.randn(latent_size(stream, len(chosen), config.units), generator=on_device, device=device)
    return Batch(upscale_frames(frames, stream), sharp[:, :shown] * 2 - 1, noise, stream)


def turned(batch: Batch, use: int) -> Batch:
    """The same clips as their `use`-th step sees them: one of the square's eight positions, and other noise.

    Bicubic upscaling turns with its frame, so it is not done again.
    """
    if not use:
        return batch

    def turn(clips: torch.Tensor) -> torch.Tensor:
        clips = torch.rot90(clips, use, (-2, -1))
        return (clips.flip(-1) if use // 4 % 2 else clips).contiguous()

    noise = batch.noise.roll(use, dims=1).flip(-1)
    return replace(batch, upscaled=turn(batch.upscaled), target=turn(batch.target), noise=noise)


def choose_picture(
    photographs: list[torch.Tensor], drawn: list[torch.Tensor], generator: torch.Generator
) -> torch.Tensor:
    """A picture: drawn ones are one in five."""
    of_drawn = torch.rand((), generator=generator) < 0.2
    pictures = drawn if not photographs or (drawn and of_drawn) else photographs
    return pictures[int(torch.randint(len(pictures), (), generator=generator))]


def film_pictures(
    pictures: list[torch.Tensor], side: int, frames: int, generator: torch.Generator
) -> torch.Tensor:
    """One clip of each picture: [clips, frames, 3, side, side] in 0..1."""
    parts = torch.stack([picture_part(picture, part_side(side), generator) for picture in pictures])
    paths = torch.stack([camera_path(frames, generator) for _ in pictures])
    return film(parts, paths.to(parts), side)
