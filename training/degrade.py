"""What happened to a video before it came to us: blur, resizing, noise and compression, each clip its own.

All of it runs on the training device, in batches. JPEG is the DCT quantisation of ITU-T T.81 with the tables
of its annex K. A real video codec is used where PyAV is installed (see `compress_video`).
"""

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

BLOCK = 8
LUMA_TABLE = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62 "
    "18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 "
    "72 92 95 98 112 100 103 99"
)
CHROMA_TABLE = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99 "
) + "99 " * 32
TO_YCC = torch.tensor([(0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)])
# Here, because torch loads its linear algebra at the first use, which threads must not do at once.
TO_RGB = torch.linalg.inv(TO_YCC)


@dataclass(frozen=True)
class Damage:
    """One clip's degradation. Sizes are in LR pixels; 0 (None) leaves a step out.

    `quality` is JPEG's, `bits_per_pixel` the rate of a video codec: compressed by the one or the other.
    """

    blur: float = 0.0
    shrink: float = 1.0
    noise: float = 0.0
    shot_noise: float = 0.0
    quality: int | None = None
    bits_per_pixel: float | None = None


CLEAN = Damage()
TYPICAL = Damage(blur=0.6, noise=3 / 255, quality=55)
"""What held-out clips are degraded by: a soft lens, some noise, visible compression."""


def draw_damage(generator: torch.Generator, codec: bool = False, clean_share: float = 0.25) -> Damage:
    """A random degradation; each step is left out in some clips, and all in `clean_share` of them.

    With `codec`, half of the compressed clips go through `compress_video`.
    """
    uniform = torch.rand(12, generator=generator).tolist()
    if uniform[0] < clean_share:
        return CLEAN
    compressed, as_video = uniform[8] < 0.75, codec and uniform[10] < 0.5
    return Damage(
        blur=1.1 * uniform[1] if uniform[2] < 0.7 else 0.0,
        shrink=0.65 + 0.35 * uniform[3] if uniform[4] < 0.25 else 1.0,
        noise=8 / 255 * uniform[5] ** 1.5 if uniform[6] < 0.7 else 0.0,
        shot_noise=0.02 * uniform[7] ** 2,
        quality=int(30 + 65 * uniform[9]) if compressed and not as_video else None,
        bits_per_pixel=0.15 * 2 ** (3 * uniform[11]) if compressed and as_video else None,
    )


def make_smaller(clips: torch.Tensor, scale: int) -> torch.Tensor:
    """[clips, T, 3, H, W] -> the same at 1/scale, by bicubic with antialiasing, as image tools do."""
    size = [side // scale for side in clips.shape[-2:]]
    small = F.interpolate(clips.flatten(0, 1), size=size, mode="bicubic", antialias=True)
    return small.unflatten(0, clips.shape[:2]).clamp(0, 1)


def degrade(clips: torch.Tensor, damages: list[Damage], generator: torch.Generator) -> torch.Tensor:
    """LR clips float32 [clips, T, 3, h, w] in 0..1 -> what the network is given: uint8 [clips, T, h, w, 3].

    `generator` draws the noise and is of the clips' device.
    """
    made = [_degrade_clip(clip, damage, generator) for clip, damage in zip(clips, damages, strict=True)]
    return to_bytes(torch.stack(made))


def to_bytes(clips: torch.Tensor) -> torch.Tensor:
    """[clips, T, 3, h, w] in 0..1 -> uint8 [clips, T, h, w, 3], rounded."""
    return (clips.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 1, 3, 4, 2).contiguous()


def _degrade_clip(clip: torch.Tensor, damage: Damage, generator: torch.Generator) -> torch.Tensor:
    if damage.blur:
        clip = blur(clip, damage.blur)
    if damage.shrink < 1:
        clip = shrink_and_grow(clip, damage.shrink)
    if damage.noise or damage.shot_noise:
        deviation = (damage.noise**2 + damage.shot_noise**2 * clip.clamp(min=0)).sqrt()
        clip = clip + deviation * torch.randn(clip.shape, generator=generator, device=clip.device)
    clip = clip.clamp(0, 1)
    if damage.bits_per_pixel is not None:
        clip = through_codec(clip, damage.bits_per_pixel)
    return clip if damage.quality is None else jpeg(clip, damage.quality)


def blur(frames: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of [T, C, h, w], edges reflected."""
    reach = max(1, math.ceil(3 * sigma))
    taps = torch.arange(-reach, reach + 1, dtype=frames.dtype, device=frames.device)
    weight = torch.exp(-(taps**2) / (2 * sigma**2))
    weight = (weight / weight.sum()).view(1, 1, 1, -1)
    single = F.pad(frames.flatten(0, 1)[:, None], (reach,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(single, weight), weight.transpose(2, 3)).view_as(frames)


def shrink_and_grow(frames: torch.Tensor, factor: float) -> torch.Tensor:
    """Through a smaller size and back, bicubic, as a video that was rescaled on its way."""
    size = frames.shape[-2:]
    small = [max(1, round(side * factor)) for side in size]
    frames = F.interpolate(frames, size=small, mode="bicubic", antialias=True)
    return F.interpolate(frames, size=tuple(size), mode="bicubic", antialias=True)


def jpeg(frames: torch.Tensor, quality: int) -> torch.Tensor:
    """JPEG's loss on [T, 3, h, w] in 0..1: 4:2:0 chroma, quantised 8x8 DCT. h and w multiples of 16."""
    strength = 5000 / quality if quality < 50 else 200 - 2 * quality
    planes = torch.einsum("ij,tjhw->tihw", TO_YCC.to(frames), frames * 255)
    luma = _quantise(planes[:, :1] - 128, LUMA_TABLE, strength) + 128
    chroma = _quantise(F.avg_pool2d(planes[:, 1:], 2), CHROMA_TABLE, strength)
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")
    merged = torch.cat([luma, chroma], dim=1)
    rgb = torch.einsum("ij,tjhw->tihw", TO_RGB.to(frames), merged)
    return (rgb / 255).clamp(0, 1)


def _quantise(planes: torch.Tensor, table: str, strength: float) -> torch.Tensor:
    """Round the DCT of each 8x8 block of [T, C, h, w] to steps of the scaled table."""
    steps = torch.tensor([int(step) for step in table.split()], dtype=planes.dtype, device=planes.device)
    steps = ((steps * strength + 50) / 100).floor().clamp(1, 255).view(BLOCK, BLOCK)
    basis = dct_basis(BLOCK).to(planes)
    blocks = planes.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)
    spectrum = torch.round(basis @ blocks @ basis.T / steps) * steps
    restored = basis.T @ spectrum @ basis
    return restored.transpose(3, 4).reshape(planes.shape)


def dct_basis(size: int) -> torch.Tensor:
    """The orthonormal DCT-II as a matrix [frequency, place], float32."""
    place = torch.arange(size) + 0.5
    basis = torch.cos(math.pi / size * torch.arange(size)[:, None] * place) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis


def through_codec(clip: torch.Tensor, bits_per_pixel: float) -> torch.Tensor:
    """`compress_video` of [T, 3, h, w] in 0..1, on its device."""
    frames = compress_video(to_bytes(clip[None])[0].cpu().numpy(), bits_per_pixel)
    return torch.from_numpy(frames).to(clip.device).permute(0, 3, 1, 2).float() / 255


def compress_video(frames: np.ndarray, bits_per_pixel: float) -> np.ndarray:
    """A real codec's loss: MPEG-4 through PyAV, in memory. uint8 [T, h, w, 3], even sides, in and out.

    Raises:
        ImportError: PyAV is not installed.
    """
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = int(bits_per_pixel * frames.shape[1] * frames.shape[2] * 25)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(decoded)
