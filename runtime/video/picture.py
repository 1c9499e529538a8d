"""A decoded frame as the network takes it, 8-bit RGB, with what goes beside it; and back, for the encoder."""

import re
from dataclasses import dataclass
from typing import Any, cast

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from flashvsr_trt.errors import VideoError
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.video.beside import NOTHING, Beside, BesideUpscaler, carrier, join, side_data, split
from flashvsr_trt.runtime.video.color import (
    CURVES,
    RANGE_FULL,
    RGB_FORMATS,
    chroma_steps,
    encoded_color_tags,
    from_rgb,
    has_alpha,
    is_subsampled,
    read_color_tags,
    sample_bits,
    to_rgb,
)
from flashvsr_trt.runtime.video.ffmpeg_log import information_logged
from flashvsr_trt.runtime.video.frame_filter import UNSPECIFIED, FrameFilter, chroma_location
from flashvsr_trt.runtime.video.info import VideoInfo

NOT_ALPHA = ("mjpeg", "mjpegb", "jpegls")
"""Decoders that give four planes of which the last is no alpha: CMYK."""

OFTEN_OPAQUE = ("gif", "webp")
"""Decoders that give alpha to every picture; palettes are such as well."""

CROP_LINE = re.compile(r"^ +Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)$", re.MULTILINE)
"""As FFmpeg prints it of a stream: left, right, top, bottom. PyAV has no attribute for it."""


@dataclass(frozen=True)
class Crop:
    """Rows and columns of the stored frame that are not of the picture."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0

    def filter(self, steps: tuple[int, int]) -> FrameFilter:
        """Crops by whole chroma samples, of `steps` rows and columns: their hidden colours are not spread."""
        rows, columns = steps
        left, right = (side // columns * columns for side in (self.left, self.right))
        top, bottom = (side // rows * rows for side in (self.top, self.bottom))
        return FrameFilter("crop", w=f"iw-{left + right}", h=f"ih-{top + bottom}", x=str(left), y=str(top))

    def odd_part(self, pixels: np.ndarray, steps: tuple[int, int]) -> np.ndarray:
        """[H, W, ...] of a cropped frame -> without the rows and columns inside a chroma sample."""
        rows, columns = steps
        height, width = pixels.shape[:2]
        top, left = self.top % rows, self.left % columns
        return pixels[top : height - self.bottom % rows, left : width - self.right % columns]


WHOLE = Crop()


def container_crop(container: InputContainer, stream: av.VideoStream) -> Crop:
    """The part of a stream's frames that Matroska's PixelCrop or mp4's clap says is the picture.

    What the codec itself crops, the decoder has done.
    """
    with information_logged():
        printed = cast(Any, container).dumps_format()  # PyAV's stubs lack it
    parts = re.split(r"^ +Stream #\d+:(\d+)", printed, flags=re.MULTILINE)
    of_stream = dict(zip(parts[1::2], parts[2::2], strict=True))
    found = CROP_LINE.search(of_stream.get(str(stream.index), ""))
    return Crop(*map(int, found.groups())) if found else WHOLE


class PictureReader:
    """Turns the frames of one input into pixels: each by its own matrix, range and pixel format.

    `first` is the first frame, `codec` its decoder's name. With `turn`, pictures are turned upright as their
    EXIF says. `notify` gets one line for each thing that is not kept or changes on the way.
    """

    def __init__(
        self,
        name: str,
        first: av.VideoFrame,
        codec: str,
        notify: Notify,
        crop: Crop = WHOLE,
        turn: bool = False,
    ) -> None:
        self._name, self._notify, self._crop, self._turn = name, notify, crop, turn
        self.size = self._shown_size(first, display_matrix(first) if turn else None)
        self._reformatter = VideoReformatter()
        self._told: set[str] = set()
        self._crops: dict[tuple[int, int], FrameFilter] = {}
        self.color = read_color_tags(first)
        self.bits = max(8, min(sample_bits(first.format), 16))
        self.chroma_location, self._place = self._locate_chroma(first)
        self._codec = codec
        self.alpha = self._has_alpha(first)
        self._announce(first)

    def read(self, frame: av.VideoFrame, index: int, name: str | None = None) -> tuple[np.ndarray, Beside]:
        """Pixels uint8 RGB [H, W, 3], and what goes beside them. `name` is a file of its own.

        Raises VideoError for a picture of another size, and for a matrix that cannot be converted.
        """
        turn = display_matrix(frame) if self._turn else None
        height, width = self._shown_size(frame, turn)
        if (height, width) != self.size:
            where = f"{name} (frame {index})" if name else f"{self._name}: frame {index}"
            raise VideoError(
                f"{where} is {width}x{height} and those before are {self.size[1]}x{self.size[0]}; "
                "an output has one size, so split the input there"
            )
        carried = carrier(frame)
        tags = read_color_tags(frame)
        if (tags.primaries, tags.transfer) != (self.color.primaries, self.color.transfer):
            self._tell_once(f"primaries or transfer change at frame {index}; the output keeps the first ones")
        if sample_bits(frame.format) > 8 >= self.bits:
            self._tell_once(f"{frame.format.name} begins at frame {index}; the output has 8 bits as before")
        if not self.alpha and self._has_alpha(frame):
            self._tell_once(f"alpha begins at frame {index}; the output has none as before")
        if self._place and is_subsampled(frame.format):
            frame = self._place.through(frame)
        steps = chroma_steps(frame.format)
        if self._crop != WHOLE:
            frame = self._crops.setdefault(steps, self._crop.filter(steps)).through(frame)
        deep = sample_bits(frame.format) > 8
        pixels = to_rgb(frame, tags, self._reformatter, RGB_FORMATS[deep, self.alpha])
        pixels = upright(self._crop.odd_part(pixels, steps), turn)
        alpha = np.ascontiguousarray(pixels[..., 3]) if self.alpha else None
        if deep:
            pixels, remainder = split(pixels[..., :3])
            return pixels, Beside(remainder, alpha, carried)
        beside = Beside(alpha=alpha, carrier=carried) if self.alpha or carried else NOTHING
        return np.ascontiguousarray(pixels[..., :3]), beside

    def _shown_size(self, frame: av.VideoFrame, turn: tuple[int, ...] | None) -> tuple[int, int]:
        crop = self._crop
        size = frame.height - crop.top - crop.bottom, frame.width - crop.left - crop.right
        if min(size) < 1:
            raise VideoError(
                f"{self._name}: its crop leaves nothing of {frame.width}x{frame.height}; take it out first"
            )
        is_quarter_turn = turn is not None and turn[0] == 0
        return (size[1], size[0]) if is_quarter_turn else size

    def _locate_chroma(self, first: av.VideoFrame) -> tuple[str, FrameFilter | None]:
        """Where chroma lies, and what says so to the scaler of frames that do not."""
        if not is_subsampled(first.format):
            return "left", None
        location = chroma_location(first)
        if location != UNSPECIFIED:
            return location, None
        # What players assume: JPEG's place in full range, MPEG-2's in limited range.
        location = "center" if self.color.color_range == RANGE_FULL else "left"
        return location, FrameFilter("setparams", chroma_location=location)

    def _has_alpha(self, frame: av.VideoFrame) -> bool:
        palette = frame.format.has_palette
        if self._codec in NOT_ALPHA or not (palette or has_alpha(frame.format)):
            return False
        if not palette and self._codec not in OFTEN_OPAQUE:
            return True
        alpha = to_rgb(frame, read_color_tags(frame), self._reformatter, "rgba")[..., 3]
        return bool((alpha < 255).any())

    def _announce(self, first: av.VideoFrame) -> None:
        if self._crop != WHOLE:
            height, width = self.size
            self._tell_once(f"the container crops {first.width}x{first.height} to {width}x{height}")
        if self.bits > 8:
            self._tell_once(
                f"{first.format.name}: the network takes 8 bits a sample; the rest is upscaled beside it"
            )
        if self.color.transfer in CURVES:
            self._tell_once(
                f"{CURVES[self.color.transfer]} video is upscaled in its own curve; its tags are kept"
            )

    def _tell_once(self, line: str) -> None:
        topic = line.split()[0]
        if topic not in self._told:
            self._told.add(topic)
            self._notify(f"{self._name}: {line}")


UPRIGHT = (1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
"""The display matrix that changes nothing."""


def display_matrix(frame: av.VideoFrame) -> tuple[int, ...] | None:
    """Rotation and flips as FFmpeg's nine fixed-point numbers; None when there are none."""
    data = side_data(frame).get("DISPLAYMATRIX")
    matrix = tuple(np.frombuffer(data, np.int32).tolist()) if data else None
    return None if matrix == UPRIGHT else matrix


def upright(pixels: np.ndarray, matrix: tuple[int, ...] | None) -> np.ndarray:
    """[H, W, ...] as it is to be shown: [W, H, ...] after a quarter turn; None changes nothing.

    `matrix` is FFmpeg's display matrix a b u, c d v, x y w, in rows: what is stored at column x and row y
    is shown at column ax + cy and row bx + dy.
    """
    if matrix is None:
        return pixels
    a, b, _, c, d, *_ = matrix
    if a == 0:
        pixels = pixels.swapaxes(0, 1)
        row_sign, column_sign = b, c
    else:
        row_sign, column_sign = d, a
    pixels = pixels[::-1] if row_sign < 0 else pixels
    pixels = pixels[:, ::-1] if column_sign < 0 else pixels
    return np.ascontiguousarray(pixels)


class PictureWriter:
    """Makes frames of `pixel_format` and `size` (height, width), in the input's colours.

    `upscaled` is the size before --fit crop took the middle. `chroma_location` is where chroma samples are
    put.
    """

    def __init__(
        self,
        info: VideoInfo,
        size: tuple[int, int],
        upscaled: tuple[int, int],
        pixel_format: str,
        chroma_location: str,
    ) -> None:
        layout = av.VideoFormat(pixel_format)
        self.color = encoded_color_tags(info.color, pixel_format)
        self._format = pixel_format
        self._deep, self._alpha = sample_bits(layout) > 8, has_alpha(layout)
        self._shape = (*size, 3)
        self._chroma = FrameFilter("setparams", chroma_location=chroma_location)
        self._beside = BesideUpscaler(upscaled, size)
        self._reformatter = VideoReformatter()

    def frame(self, pixels: np.ndarray, beside: Beside) -> av.VideoFrame:
        """uint8 RGB [H, W, 3] and what is beside it -> a frame without a time.

        Raises ValueError for pixels of another size.
        """
        if pixels.shape != self._shape:
            raise ValueError(f"frames of the output have shape {self._shape}, not {pixels.shape}")
        if self._deep and beside.remainder is not None:
            pixels = join(pixels, self._beside.remainder(beside.remainder))
        alpha = None
        if self._alpha and beside.alpha is not None:
            alpha = self._beside.alpha(beside.alpha)
        return from_rgb(pixels, self.color, self._format, self._reformatter, self._chroma, alpha)
