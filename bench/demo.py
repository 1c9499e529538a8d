"""`make demo`: a short damaged clip with sound, upscaled by `nano`, beside bicubic, with numbers.

Leaves build/demo/clip.mp4, clip_2x.mp4 and side_by_side.png. The README's picture is made so:

    python -m bench.demo --sheet docs/side_by_side.png
"""

from pathlib import Path

import click
import numpy as np
from PIL import Image, ImageDraw

from bench.demo_clip import PHOTOGRAPH, damage, photograph_clip, read_clip, write_clip
from flashvsr_trt.cli.main import main as flashvsr_trt
from flashvsr_trt.quality.metrics import luma, mean_squared_error, psnr

FOLDER = Path("build/demo")
CROP = 3
"""The enlarged part is a third of the frame each way, from its middle."""
GAP, TITLE = 8, 18
NANO = "flashvsr-trt, preset nano"

WHAT_NANO_IS = """\
nano is a tiny stand-in for FlashVSR: the real network's classes, 15 MB of weights, trained for minutes.
It shows that the whole chain works here, and no more: on clean clips it is worse than bicubic.
FlashVSR's own weights (flashvsr-trt weights pull, 6.4 GB) and a GPU are for videos that matter.
"""


def enlarge(frames: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """Frames uint8 [T, h, w, 3] -> [T, H, W, 3] for size (W, H)."""
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, how)) for frame in frames])


def mean_luma_psnr(frames: np.ndarray, sharp: np.ndarray) -> float:
    """In dB, of two clips uint8 [T, H, W, 3]: the mean of the frames'."""
    pairs = zip(frames, sharp, strict=True)
    return float(np.mean([psnr(mean_squared_error(luma(made), luma(wanted))) for made, wanted in pairs]))


def side_by_side(columns: dict[str, Image.Image]) -> Image.Image:
    """Pictures of one size under their titles, whole and as an enlarged crop."""
    width, height = next(iter(columns.values())).size
    across, down = width // CROP, height // CROP
    left, top = (width - across) // 2, (height - down) // 2
    sheet = Image.new("RGB", ((width + GAP) * len(columns) - GAP, TITLE + 2 * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, picture) in enumerate(columns.items()):
        place = number * (width + GAP)
        draw.text((place + 2, 3), title, fill="black")
        sheet.paste(picture, (place, TITLE))
        part = picture.crop((left, top, left + across, top + down))
        sheet.paste(part.resize((width, height), Image.Resampling.NEAREST), (place, TITLE + height + GAP))
    return sheet


@click.command()
@click.option(
    "--photograph",
    type=click.Path(exists=True, path_type=Path),
    default=PHOTOGRAPH,
    help="Another than the one that is here: a square of 589 pixels or more.",
)
@click.option("--sheet", type=click.Path(path_type=Path), default=FOLDER / "side_by_side.png")
@click.option("--weights", help="As of `flashvsr-trt run`.  [default: nano's own]")
def main(photograph: Path, sheet: Path, weights: str | None) -> None:
    """Make the clip, upscale it, measure it, draw the picture."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    clip, upscaled = FOLDER / "clip.mp4", FOLDER / "clip_2x.mp4"
    sharp = photograph_clip(photograph)
    write_clip(damage(sharp), clip)
    options = ["--preset", "nano", "--backend", "torch", "--crf", "8", "--overwrite"]
    options += ["--weights", weights] if weights else []
    flashvsr_trt(["run", str(clip), "-o", str(upscaled), *options])
    given, ours = read_clip(clip), read_clip(upscaled)
    size = sharp.shape[2], sharp.shape[1]
    clips = {"bicubic": enlarge(given, size, Image.Resampling.BICUBIC), NANO: ours}
    numbers = {name: mean_luma_psnr(frames, sharp) for name, frames in clips.items()}
    shown = {"input, nearest": enlarge(given, size, Image.Resampling.NEAREST)}
    shown |= {f"{name}: {numbers[name]:.2f} dB": frames for name, frames in clips.items()}
    middle = len(sharp) // 2
    picture = side_by_side({title: Image.fromarray(frames[middle]) for title, frames in shown.items()})
    picture.save(sheet, optimize=True)
    if np.asarray(picture).std() < 1:
        raise RuntimeError(f"{sheet} is one colour: the demo did not work")
    gain = numbers[NANO] - numbers["bicubic"]
    side = "above" if gain > 0 else "below"
    click.echo(f"mean luma PSNR against the sharp clip: nano is {abs(gain):.2f} dB {side} bicubic")
    click.echo(WHAT_NANO_IS, nl=False)
    click.echo(f"{upscaled} and {sheet} are ready")


if __name__ == "__main__":
    main()
