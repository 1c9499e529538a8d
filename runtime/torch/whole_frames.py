"""Whole frames on the torch executor's device: upscaled before they are cut, finished once blended."""

import numpy as np
import torch
import torch.nn.functional as F

from flashvsr_trt.config.presets import UNIT_FRAMES
from flashvsr_trt.config.signatures import DECODE, ENCODE, StreamConfig
from flashvsr_trt.config.tiles import Tile, TilePlan
from flashvsr_trt.model.color import finish_frames
from flashvsr_trt.model.upsample import Upscaler
from flashvsr_trt.runtime.executor import PendingFrames
from flashvsr_trt.runtime.frames import Frames
from flashvsr_trt.runtime.torch.copies import hand_over, upload
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.frames import give_frames


class TorchFrames:
    """Implements `runtime.whole_frames.WholeFrames`, a frame at a time to save memory.

    Args:
        executor: of one tile's stream.
        stream: of the whole frames.
    """

    keeps_conditions = False

    def __init__(self, executor: TorchExecutor, stream: StreamConfig, plan: TilePlan) -> None:
        self.executor, self.canvas = executor, plan.canvas
        self.device, self.dtype = executor.device, executor.dtype
        self.color_fix, (rows, columns) = stream.color_fix, plan.padding
        self.padding = 0, columns, 0, rows
        # A tile that is alone is finished by its condition as well.
        self.dtype_of_conditions = self.dtype if len(plan.tiles) > 1 else torch.float32
        self.upscaler = Upscaler(stream, self.device, target=plan.canvas)
        self.weights = {
            tile: torch.from_numpy(weight).to(self.device)
            for tile, weight in zip(plan.tiles, plan.weights, strict=True)
        }

    def upscale(self, frames: Frames, stage: str = ENCODE) -> torch.Tensor:
        if stage == DECODE and isinstance(frames, torch.Tensor):
            hand_over([frames], self.executor.encoding, self.executor.decoding)
        with self.executor.within(stage):
            given = upload(torch.as_tensor(frames), self.device)
            whole = given.new_empty((len(given), *self.canvas, 3))
            for frame, place in zip(given.split(1), whole, strict=True):
                upscaled, _ = self.upscaler(frame, self.dtype)
                # Of 8 bits, in [-1, 1]: half a level more, so that rounding down gives the level itself.
                place.copy_(upscaled[0].permute(1, 2, 0).add(1).mul_(127.5).add_(0.5))
        return whole

    def kept(self, frames: Frames, upscaled: torch.Tensor) -> Frames:
        """See `WholeFrames.kept`. They are upscaled again: a step's would take several times the memory."""
        return frames

    def reference(self, kept: Frames) -> torch.Tensor:
        return self.upscale(kept, DECODE)

    def condition(self, frames: torch.Tensor) -> torch.Tensor:
        with self.executor.within(DECODE):
            shape, dtype = (len(frames), 3, *frames.shape[1:3]), self.dtype_of_conditions
            made = torch.empty(shape, dtype=dtype, device=self.device)
            for frame, place in zip(frames.split(1), made.split(1), strict=True):
                place.copy_(signed(frame))
            return made

    def blank(self) -> torch.Tensor:
        with self.executor.within(DECODE):
            return torch.zeros((UNIT_FRAMES, 3, *self.canvas), device=self.device)

    def add(self, blended: torch.Tensor, tile: Tile, weight: np.ndarray, frames: torch.Tensor) -> None:
        rows, columns = tile.pixels
        with self.executor.within(DECODE):
            for frame, place in zip(frames, blended[:, :, rows, columns], strict=True):
                place.addcmul_(frame.float(), self.weights[tile])

    def finish(
        self, blended: torch.Tensor, reference: torch.Tensor, on_device: bool = False
    ) -> PendingFrames:
        with self.executor.within(DECODE):
            made = blended.new_empty((UNIT_FRAMES, *self.canvas, 3), dtype=torch.uint8)
            for frame, wanted, place in zip(blended.split(1), reference.split(1), made.split(1), strict=True):
                pair = frame, signed(wanted)
                if any(self.padding):
                    pair = (F.pad(x, self.padding, mode="replicate") for x in pair)
                place.copy_(finish_frames(*pair, self.color_fix)[:, : place.shape[1], : place.shape[2]])
            return give_frames(made, on_device)


def signed(frames: torch.Tensor) -> torch.Tensor:
    """uint8 [n, h, w, 3] -> float32 [n, 3, h, w] in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)
