"""What the demo upscales: a sharp clip at full size, and a damaged one of half the size with sound."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image

from training.batches import step_generator
from training.degrade import TYPICAL, degrade, make_smaller, to_bytes
from training.motion import camera_path, film, part_side

SCALE = 2
FRAMES, RATE = 33, Fraction(24)
PHOTOGRAPH_SIDE = 256
"""Width and height of the sharp clip."""

PHOTOGRAPH = Path(__file__).with_name("friends_by_Aitzol_Berasategi.jpg")
"""No training saw it. CC BY 4.0, as its EXIF says; the middle of one that `training.fetch` fetches."""


def photograph_clip(path: Path, seed: int = 1) -> np.ndarray:
    """A camera over the middle of a picture: uint8 RGB [FRAMES, PHOTOGRAPH_SIDE, PHOTOGRAPH_SIDE, 3]."""
    picture = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy())
    part = min(part_side(PHOTOGRAPH_SIDE), *picture.shape[:2])
    top, left = ((side - part) // 2 for side in picture.shape[:2])
    middle = picture[top : top + part, left : left + part].permute(2, 0, 1)[None].float() / 255
    camera = camera_path(FRAMES, step_generator(seed, 0))[None]
    return to_bytes(film(middle, camera, PHOTOGRAPH_SIDE))[0].numpy()


def damage(sharp: np.ndarray) -> np.ndarray:
    """Half the size, a soft lens, noise and JPEG, as held-out clips have it: uint8 [T, H/2, W/2, 3]."""
    clip = torch.from_numpy(sharp).permute(0, 3, 1, 2)[None].float() / 255
    return degrade(make_smaller(clip, SCALE), [TYPICAL], torch.Generator().manual_seed(0))[0].numpy()


def write_clip(frames: np.ndarray, path: Path) -> None:
    """H.264 with a tone as sound."""
    with av.open("sine=frequency=440", format="lavfi") as tone, av.open(str(path), "w") as clip:
        video = clip.add_stream("libx264", rate=RATE, options={"crf": "14"})
        video.height, video.width, video.pix_fmt = *frames.shape[1:3], "yuv420p"
        audio = clip.add_stream("aac", rate=44100)
        for frame in frames:
            clip.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        clip.mux(video.encode(None))
        for frame in tone.decode(audio=0):
            if frame.time >= len(frames) / RATE:
                break
            clip.mux(audio.encode(frame))
        clip.mux(audio.encode(None))


def read_clip(path: Path) -> np.ndarray:
    """All frames of a video: uint8 RGB [T, H, W, 3]."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
