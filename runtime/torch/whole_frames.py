"""Whole frames on the torch executor's device: upscaled before they are cut, finished once blended."""

from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np
import torch
import torch.nn.functional as F

from flashvsr_trt.config.presets import UNIT_FRAMES
from flashvsr_trt.config.signatures import DECODE, ENCODE, StreamConfig
from flashvsr_trt.config.tiles import Tile, TilePlan
from flashvsr_trt.model.color import finish_frames
from flashvsr_trt.model.upsample import Upscaler
from flashvsr_trt.runtime.executor import PendingFrames
from flashvsr_trt.runtime.torch.copies import hand_over, start_download, upload


class TorchFrames:
    """Implements `runtime.whole_frames.WholeFrames`, a frame at a time to save memory.

    Args:
        stream: of the whole frames.
        dtype: of the network.
        streams: of encoding and of decoding, None on a CPU.
        within: what the work of a stage runs in, with its stream.
    """

    keeps_conditions = False

    def __init__(
        self,
        stream: StreamConfig,
        plan: TilePlan,
        device: torch.device,
        dtype: torch.dtype,
        streams: tuple[torch.cuda.Stream | None, torch.cuda.Stream | None],
        within: Callable[[str, torch.cuda.Stream | None], AbstractContextManager[None]],
    ) -> None:
        self.device, self.dtype, self.within, self.canvas = device, dtype, within, plan.canvas
        self.encoding, self.decoding = streams
        self.color_fix, (rows, columns) = stream.color_fix, plan.padding
        self.padding = 0, columns, 0, rows
        self.upscaler = Upscaler(stream, device, target=plan.canvas)
        self.weights = {
            tile: torch.from_numpy(weight).to(device)
            for tile, weight in zip(plan.tiles, plan.weights, strict=True)
        }

    def upscale(self, frames: np.ndarray) -> torch.Tensor:
        """See `WholeFrames.upscale`."""
        with self.within(ENCODE, self.encoding):
            given = upload(torch.from_numpy(frames), self.device)
            whole = given.new_empty((len(given), *self.canvas, 3))
            for frame, place in zip(given.split(1), whole, strict=True):
                upscaled, _ = self.upscaler(frame, self.dtype)
                # Of 8 bits, in [-1, 1]: half a level more, so that rounding down gives the level itself.
                place.copy_(((upscaled[0] + 1) * 127.5 + 0.5).permute(1, 2, 0))
        return whole

    def join(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """See `WholeFrames.join`."""
        with self.within(ENCODE, self.encoding):
            return torch.cat([before, after])

    def condition(self, frames: torch.Tensor) -> torch.Tensor:
        """See `WholeFrames.condition`."""
        hand_over([frames], self.encoding, self.decoding)
        with self.within(DECODE, self.decoding):
            return signed(frames)

    def blank(self) -> torch.Tensor:
        """See `WholeFrames.blank`."""
        with self.within(DECODE, self.decoding):
            return torch.zeros((UNIT_FRAMES, 3, *self.canvas), device=self.device)

    def add(self, blended: torch.Tensor, tile: Tile, weight: np.ndarray, frames: torch.Tensor) -> None:
        """See `WholeFrames.add`."""
        rows, columns = tile.pixels
        with self.within(DECODE, self.decoding):
            blended[:, :, rows, columns].addcmul_(frames.float(), self.weights[tile])

    def finish(self, blended: torch.Tensor, reference: torch.Tensor) -> PendingFrames:
        """See `WholeFrames.finish`."""
        hand_over([reference], self.encoding, self.decoding)
        with self.within(DECODE, self.decoding):
            made = blended.new_empty((UNIT_FRAMES, *self.canvas, 3), dtype=torch.uint8)
            for frame, wanted, place in zip(blended.split(1), reference.split(1), made.split(1), strict=True):
                padded = (F.pad(x, self.padding, mode="replicate") for x in (frame, signed(wanted)))
                place.copy_(finish_frames(*padded, self.color_fix)[:, : place.shape[1], : place.shape[2]])
            return start_download(made)


def signed(frames: torch.Tensor) -> torch.Tensor:
    """uint8 [n, h, w, 3] -> float32 [n, 3, h, w] in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
