"""Upscaled pixels, and what went beside the network, as a frame for the encoder."""

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from flashvsr_trt.runtime.video.beside import Beside, BesideUpscaler, join
from flashvsr_trt.runtime.video.color import encoded_color_tags, from_rgb, has_alpha, sample_bits
from flashvsr_trt.runtime.video.frame_filter import FrameFilter
from flashvsr_trt.runtime.video.info import VideoInfo


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
