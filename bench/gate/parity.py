"""Parity: the stages, tiles and FP8 against the official frames or the plain way."""

from collections.abc import Callable
from functools import cache

import numpy as np
import torch

from bench.gate.measure import Metrics, Sample
from bench.moving_clip import moving_frames
from bench.seams import seam_sigmas, tile_borders
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import AttentionConfig, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.runtime.request import TorchOptions
from flashvsr_trt.runtime.session import Session
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.precision import fp8_products
from flashvsr_trt.runtime.torch.tiles import in_tiles
from tests.golden import Case, end_to_end_weights, golden_preset, load_case
from tests.golden_clips import RecordingExecutor, as_official, golden_noise, network_of, skip_two, stream_of

HIGHEST_DB = 100.0
"""What is closer than this is rounding, which another order of sums changes."""

CPU = torch.device("cpu")


def decibels(reference: np.ndarray, made: np.ndarray, peak: float | None = None) -> float:
    """Signal to noise, of the largest value if no peak is given; at most HIGHEST_DB, and 0 for no numbers."""
    wide = reference.astype(np.float64)
    square = np.mean((wide - made.astype(np.float64)) ** 2)
    if not np.isfinite(square):
        return 0.0
    peak = peak or float(np.abs(wide).max())
    return HIGHEST_DB if square == 0 else float(min(HIGHEST_DB, 10 * np.log10(peak**2 / square)))


def frames_against(expected: np.ndarray, made: np.ndarray) -> Metrics:
    """PSNR and the largest difference in levels, of the frames that both have."""
    shared = min(len(expected), len(made))
    expected, made = expected[:shared].astype(np.int16), made[:shared].astype(np.int16)
    return {
        "frames_db": decibels(expected, made, 255.0) if shared else 0.0,
        "levels": float(np.abs(expected - made).max()) if shared else 255.0,
    }


def golden(preset: str, vectors: str, schedule: str, upsampler: str) -> Sample:
    """A clip of the official code: what each stage makes of it, by `Session` as users run it."""
    case = load_case(vectors)
    stream, network = stream_of(case, schedule, upsampler), network_of(case)

    def sample() -> Metrics:
        executor = RecordingExecutor(network, stream)
        made = golden_frames(executor, case, schedule)
        every = 2 if "frames_u8_some" in case.tensors else 1
        expected = case["frames_u8_some" if every == 2 else "frames_u8"].numpy()
        return {
            "tokens_db": worst_db(case, "lq", [x[None] for x in executor.tokens], lambda x: x[:, ::2]),
            "latent_db": worst_db(
                case,
                "latent",
                list(map(as_official, executor.latents)),
                lambda x: x[..., ::2, ::2],
            ),
            "mask_bits": mask_bits(case, executor.first_layer_masks()),
            "frames": len(made),
        } | frames_against(expected, made[::every])

    return sample


def golden_frames(executor, case: Case, schedule: str) -> np.ndarray:
    """All frames of the case's clip, with its noise and positions."""
    position = None if schedule == "official" else skip_two
    session = Session(executor, noise=golden_noise(case), position=position)
    return np.concatenate([session.push(case["lr"].numpy()), session.flush()])


def worst_db(case: Case, name: str, made: list[torch.Tensor], half: Callable) -> float:
    """The least of all units that the case has, in full or as every second entry."""
    found = []
    for unit, tensor in enumerate(made):
        if f"{name}.{unit}" in case.tensors:
            found.append(decibels(case[f"{name}.{unit}"].numpy(), tensor.numpy()))
        if f"{name}_even.{unit}" in case.tensors:
            found.append(decibels(case[f"{name}_even.{unit}"].numpy(), half(tensor).numpy()))
    return min(found)


def mask_bits(case: Case, masks: list[torch.Tensor]) -> int:
    """Bits of the first layer's masks that differ. Slots that are empty yet must show no block."""
    differ = 0
    for call, mask in enumerate(masks):
        if f"dbg.mask.{call}.0" in case.tensors:
            expected = case[f"dbg.mask.{call}.0"][0]
            seen = expected.shape[-1]
            differ += int((mask[..., :seen] != expected).sum()) + int(mask[..., seen:].sum())
    return differ


SMALL = StreamConfig(
    golden_preset(AttentionConfig(sparse_ratio=2.0)), Geometry(128, 160, 2), find_schedule("official")
)
"""A frame that wants two tiles, side by side."""


@cache
def small_clip() -> np.ndarray:
    """Frames of SMALL."""
    return moving_frames(SMALL.geometry.width, SMALL.geometry.height, 29)


def small_network(products: Callable[[str], bool] | None = None) -> Network:
    """A golden case's weights."""
    weights = end_to_end_weights(load_case("e2e_official"))
    return build_network(SMALL.preset.network, weights, CPU, torch.float32, products)


def through(executor) -> np.ndarray:
    """The small clip through an executor."""
    with Session(executor) as session:
        return np.concatenate([session.push(small_clip()), session.flush()])


@cache
def plain_frames() -> np.ndarray:
    """The small clip in float32, in one piece."""
    return through(TorchExecutor(small_network(), SMALL))


def tiles(preset: str) -> Sample:
    """Tiles against one piece, and the worst line along a border of tiles."""
    plan = TilePlan(SMALL.geometry, (256, 256))

    def sample() -> Metrics:
        executor = TorchExecutor(small_network(), plan.tile_stream(SMALL))
        made = through(in_tiles(executor, SMALL, plan))
        sigmas = [
            worst
            for axis, (starts, tile) in enumerate(zip(plan.corners, plan.tile, strict=True))
            for worst in seam_sigmas(made, tile_borders(starts, tile), axis).values()
        ]
        frames_db = frames_against(plain_frames(), made)["frames_db"]
        return {"frames": len(made), "frames_db": frames_db, "seam_sigmas": max(sigmas)}

    return sample


def fp8(preset: str) -> Sample:
    """Products, and the K/V ring, in FP8 against float32."""
    chosen = {"products_db": TorchOptions(precision="fp8"), "cache_db": TorchOptions(kv_cache="fp8")}

    def frames(options: TorchOptions) -> np.ndarray:
        products = fp8_products(options, CPU, torch.float32, SMALL.preset.network)
        return through(TorchExecutor(small_network(products), SMALL, options))

    def sample() -> Metrics:
        return {name: decibels(plain_frames(), frames(options), 255.0) for name, options in chosen.items()}

    return sample
