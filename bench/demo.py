"""`make demo`: a short clip with motion, text and sound, upscaled by `nano`, and a side-by-side picture.

Leaves build/demo/clip.mp4, clip_2x.mp4 and side_by_side.png.
"""

from fractions import Fraction
from pathlib import Path

import av
import click
import numpy as np
from PIL import Image, ImageDraw

from flashvsr_trt.cli import main as flashvsr_trt

FOLDER = Path("build/demo")
WIDTH, HEIGHT, FRAMES, RATE = 160, 96, 33, Fraction(24)
CROP = (80, 0, 160, 48)
"""Of the input, in pixels: left, top, right, bottom; shown enlarged."""


def make_clip(path: Path) -> None:
    """FFmpeg's `testsrc2` (moving shapes and a running clock) with a tone."""
    with (
        av.open(f"testsrc2=size={WIDTH}x{HEIGHT}:rate={RATE}", format="lavfi") as pictures,
        av.open("sine=frequency=440", format="lavfi") as tone,
        av.open(str(path), "w") as clip,
    ):
        video = clip.add_stream("libx264", rate=RATE, options={"crf": "14"})
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        audio = clip.add_stream("aac", rate=44100)
        for _, frame in zip(range(FRAMES), pictures.decode(video=0), strict=False):
            clip.mux(video.encode(frame.reformat(format="yuv420p")))
        clip.mux(video.encode(None))
        for frame in tone.decode(audio=0):
            if frame.time >= FRAMES / RATE:
                break
            clip.mux(audio.encode(frame))
        clip.mux(audio.encode(None))


def read_frame(path: Path, index: int) -> Image.Image:
    """One frame of a video."""
    with av.open(str(path)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            if number == index:
                return frame.to_image()
    raise IndexError(f"{path} has no frame {index}")


def side_by_side(clip: Path, upscaled: Path, index: int) -> Image.Image:
    """Nearest, bicubic and ours, whole and as an enlarged crop."""
    source, ours = read_frame(clip, index), read_frame(upscaled, index)
    columns = {
        "input, nearest": source.resize(ours.size, Image.Resampling.NEAREST),
        "bicubic": source.resize(ours.size, Image.Resampling.BICUBIC),
        "flashvsr-trt, preset nano": ours,
    }
    width, height = ours.size
    scale = width // source.width
    crop = tuple(side * scale for side in CROP)
    sheet = Image.new("RGB", (width * len(columns) + 8 * (len(columns) - 1), 18 + 2 * height + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, picture) in enumerate(columns.items()):
        left = number * (width + 8)
        draw.text((left + 2, 3), title, fill="black")
        sheet.paste(picture, (left, 18))
        sheet.paste(picture.crop(crop).resize((width, height), Image.Resampling.NEAREST), (left, 26 + height))
    return sheet


@click.command()
def main() -> None:
    """Make the clip, upscale it, draw the picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    clip, upscaled, picture = FOLDER / "clip.mp4", FOLDER / "clip_2x.mp4", FOLDER / "side_by_side.png"
    make_clip(clip)
    options = ["--preset", "nano", "--backend", "torch", "--overwrite"]
    flashvsr_trt(["run", str(clip), "-o", str(upscaled), *options])
    sheet = side_by_side(clip, upscaled, FRAMES // 2)
    sheet.save(picture)
    spread = np.asarray(sheet).std()
    if spread < 1:
        raise RuntimeError(f"{picture} is one colour (deviation {spread:.2f}): the demo did not work")
    click.echo(f"{upscaled} and {picture} are ready")


if __name__ == "__main__":
    main()
