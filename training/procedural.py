"""Pictures made by rule: text, shapes and gratings, the sharp edges that photographs have few of."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 1024


def procedural_picture(seed: int) -> np.ndarray:
    """uint8 [1024, 1024, 3], a function of the seed: a graded ground with gratings, shapes and text on it."""
    generator = np.random.default_rng(seed)
    picture = Image.fromarray(_ground(generator))
    draw = ImageDraw.Draw(picture)
    for _ in range(24):
        _shape(draw, generator)
    for _ in range(6):
        _paste_grating(picture, generator)
    for _ in range(40):
        _text(draw, generator)
    return np.asarray(picture)


def _ground(generator: np.random.Generator) -> np.ndarray:
    """A linear blend of four corner colours."""
    corners = generator.uniform(0, 255, (2, 2, 3))
    ramp = np.linspace(0, 1, SIDE)
    rows = corners[0][None] * (1 - ramp[:, None, None]) + corners[1][None] * ramp[:, None, None]
    blend = rows[:, :1] * (1 - ramp[None, :, None]) + rows[:, 1:] * ramp[None, :, None]
    return blend.astype(np.uint8)


def _colour(generator: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(value) for value in generator.integers(0, 256, 3))


def _shape(draw: ImageDraw.ImageDraw, generator: np.random.Generator) -> None:
    x, y = (int(value) for value in generator.integers(-60, SIDE, 2))
    width, height = (int(value) for value in generator.integers(12, 240, 2))
    box, colour = (x, y, x + width, y + height), _colour(generator)
    match int(generator.integers(4)):
        case 0:
            draw.rectangle(box, fill=colour)
        case 1:
            draw.ellipse(box, fill=colour)
        case 2:
            draw.line(box, fill=colour, width=int(generator.integers(1, 9)))
        case 3:
            points = [(x + int(a), y + int(b)) for a, b in generator.integers(0, 240, (5, 2))]
            draw.polygon(points, fill=colour, outline=_colour(generator))


def _paste_grating(picture: Image.Image, generator: np.random.Generator) -> None:
    """A sine or square grating, 3 to 24 pixels a period."""
    size = int(generator.integers(80, 260))
    angle, period = generator.uniform(0, np.pi), generator.uniform(3, 24)
    row, column = np.mgrid[:size, :size]
    wave = np.sin((np.cos(angle) * column + np.sin(angle) * row) * 2 * np.pi / period)
    if generator.random() < 0.3:
        wave = np.sign(wave)
    low, high = (np.array(_colour(generator), float) for _ in range(2))
    grating = low + (high - low) * (wave[..., None] * 0.5 + 0.5)
    place = tuple(int(value) for value in generator.integers(0, SIDE - size, 2))
    picture.paste(Image.fromarray(grating.astype(np.uint8)), place)


def _text(draw: ImageDraw.ImageDraw, generator: np.random.Generator) -> None:
    letters = "".join(chr(int(code)) for code in generator.integers(33, 127, 18))
    font = ImageFont.load_default(size=float(generator.uniform(10, 56)))
    place = tuple(int(value) for value in generator.integers(0, SIDE, 2))
    draw.text(place, letters[:9] + " " + letters[9:], fill=_colour(generator), font=font)
