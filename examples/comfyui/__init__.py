"""FlashVSR as a node of ComfyUI: images in, images out, 2 or 4 times as wide and high.

Copy or link this folder into ComfyUI's `custom_nodes` as `flashvsr_trt`, and install flashvsr-trt into
ComfyUI's own Python.
"""

import comfy.model_management
import comfy.utils
import torch

from flashvsr_trt import Upscaler
from flashvsr_trt.config.presets import PRESETS, SCALES, SCHEDULES, UNIT_FRAMES
from flashvsr_trt.config.signatures import COLOR_FIXES
from flashvsr_trt.runtime.backends import BACKENDS

CHANNELS = 3


class FlashVSRUpscale:
    """Images of a batch are the frames of one clip, in order. They stream through in chunks of 8."""

    CATEGORY = "image/upscaling"
    DESCRIPTION = "Upscale the frames of a video with FlashVSR v1.1, a one-step streaming diffusion model."
    FUNCTION = "upscale"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)

    kept: Upscaler | None = None
    """What the last run with `keep_loaded` left."""

    @classmethod
    def INPUT_TYPES(cls):  # noqa: N802 (the host's name)
        """The node's inputs, as ComfyUI declares them."""
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "The frames of one clip, in order."}),
                "preset": ([preset.name for preset in PRESETS], {"tooltip": "nano is tiny, for trying out."}),
                "scale": ([str(scale) for scale in SCALES],),
                "tile": (
                    "STRING",
                    {"default": "auto", "tooltip": "auto: where a frame does not fit; off; or 768x768."},
                ),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**63 - 1}),
            },
            "optional": {
                "schedule": ([schedule.name for schedule in SCHEDULES],),
                "color_fix": (list(COLOR_FIXES),),
                "backend": (list(BACKENDS), {"tooltip": "auto: engines that were built, else torch."}),
                "vram_gib": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1024.0,
                        "step": 0.5,
                        "tooltip": "0: all that is free.",
                    },
                ),
                "weights": ("STRING", {"default": "", "tooltip": "A directory or bundle; empty: found."}),
                "keep_loaded": (
                    "BOOLEAN",
                    {"default": False, "tooltip": "Faster next time; keeps the VRAM."},
                ),
            },
        }

    def upscale(
        self,
        images: torch.Tensor,
        preset: str,
        scale: str,
        tile: str,
        seed: int,
        schedule: str = SCHEDULES[0].name,
        color_fix: str = COLOR_FIXES[0],
        backend: str = BACKENDS[0],
        vram_gib: float = 0.0,
        weights: str = "",
        keep_loaded: bool = False,
    ) -> tuple[torch.Tensor]:
        """float [B, H, W, C] in [0, 1] -> float32 [B, scale * H, scale * W, 3] in host memory."""
        upscaler = self._upscaler(
            preset=preset,
            scale=int(scale),
            tile=tile_of(tile),
            seed=seed,
            schedule=schedule,
            color_fix=color_fix,
            backend=backend,
            vram=int(vram_gib * 2**30) or None,
            weights=weights or None,
            device=str(comfy.model_management.get_torch_device()),
        )
        progress = comfy.utils.ProgressBar(len(images))
        height, width = images.shape[1:3]
        made = torch.empty(len(images), int(scale) * height, int(scale) * width, CHANNELS)
        done = 0
        try:
            for frames in upscaler.frames(chunks_of(images)):
                made[done : done + len(frames)] = torch.from_numpy(frames).float().div_(255)
                done += len(frames)
                progress.update_absolute(done)
        except BaseException:
            self._forget()
            raise
        if not keep_loaded:
            self._forget()
        return (made,)

    @classmethod
    def _upscaler(cls, **options) -> Upscaler:
        """The one that was kept, where its options are these; else a new one, with the GPU free for it."""
        if cls.kept is None or any(getattr(cls.kept.options, name) != options[name] for name in options):
            cls._forget()
            comfy.model_management.unload_all_models()
            cls.kept = Upscaler(**options)
        return cls.kept

    @classmethod
    def _forget(cls) -> None:
        if cls.kept:
            cls.kept.close()
            cls.kept = None
        comfy.model_management.soft_empty_cache()


def chunks_of(images: torch.Tensor):
    """uint8 [8, H, W, 3] of a batch in turn, on its device. Ends where the user cancels the run."""
    for start in range(0, len(images), UNIT_FRAMES):
        comfy.model_management.throw_exception_if_processing_interrupted()
        chunk = images[start : start + UNIT_FRAMES, ..., :CHANNELS]
        yield chunk.clamp(0, 1).mul(255).round().to(torch.uint8)


def tile_of(text: str) -> str | tuple[int, int]:
    """`768x768`, width first, as the (height, width) that an upscaler takes; words as they are."""
    width, by, height = text.strip().partition("x")
    return (int(height), int(width)) if by and width.isdigit() and height.isdigit() else text.strip()


NODE_CLASS_MAPPINGS = {"FlashVSRUpscale": FlashVSRUpscale}
NODE_DISPLAY_NAME_MAPPINGS = {"FlashVSRUpscale": "Upscale Video (FlashVSR)"}
