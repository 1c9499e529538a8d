"""Seeded weights of a network's shapes, scaled so that activations stay finite through every block."""

import hashlib
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor

import torch

from flashvsr_trt.config.presets import NetworkConfig
from flashvsr_trt.model.state_shapes import FOLDED, state_shapes

RECIPE = 1
"""Counts changes of the rules below: it is part of the fingerprint."""

_CHUNK = 1 << 22
"""Values drawn at once: a float32 buffer of 16 MB, whatever the dtype asked for."""

# (part, key pattern, mean, standard deviation); a deviation of None is `gain` / sqrt(fan in).
_NORM = (1.0, 0.1)
_BIAS = (0.0, 0.02)
_RULES = (
    (r"projector\.norm\d\.gamma", *_NORM),
    (r"dit\..*norm(_q|_k|3)\.weight", *_NORM),
    # With the time projection below, gates come out at about 0.2: residuals add up, and do not explode.
    (r"dit\..*modulation", 0.0, 0.2),
    # Mid-grey, and contrast that keeps frames within about [0, 1].
    (r"decoder\.decoder\.26\.bias", 0.5, 0.02),
    (r"prompt\.prompt", 0.0, 1.0),
    (r".*\.bias", *_BIAS),
)
_GAINS = (
    (r"dit\.time_projection\.1\.weight", 0.5),
    (r"decoder\.decoder\.26\.weight", 0.2),
    # The last convolution of a MemBlock is small beside the skip that it is added to.
    (r"decoder\.decoder\.\d+\.conv\.4\.weight", 0.3),
    (r"decoder\.decoder\.\d+\.conv\.weight", 1.0),
    (r"decoder\..*", math.sqrt(2)),
    (r".*", 1.0),
)


def random_weights(
    network: NetworkConfig, seed: int, dtype: torch.dtype = torch.float32
) -> dict[str, dict[str, torch.Tensor]]:
    """Part -> key -> tensor. A value depends on the seed, its part and its key alone.

    Values are drawn in float32 and rounded to `dtype`, but for those of FOLDED parts; at most a few chunks of
    float32 exist at a time beside them.
    """
    shapes = state_shapes(network)
    state = {}
    for part, keys in shapes.items():
        stored = torch.float32 if part in FOLDED else dtype
        state[part] = {key: torch.empty(shape, dtype=stored) for key, shape in keys.items()}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = [
            pool.submit(_fill, tensor, seed, f"{part}.{key}")
            for part, tensors in state.items()
            for key, tensor in tensors.items()
        ]
        for job in jobs:
            job.result()
    return state


def random_digest(part: str, network: NetworkConfig, seed: int) -> str:
    """A sha256 that stands for the contents of one part, without drawing them."""
    recipe = f"random recipe {RECIPE}, torch {torch.__version__}, seed {seed}, {part}, {network}"
    return hashlib.sha256(recipe.encode()).hexdigest()


def _fill(tensor: torch.Tensor, seed: int, name: str) -> None:
    mean, deviation = _distribution(name, tuple(tensor.shape))
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    for chunk in tensor.view(-1).split(_CHUNK):
        chunk.copy_(torch.empty(chunk.shape).normal_(mean, deviation, generator=generator))


def _distribution(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    for pattern, mean, deviation in _RULES:
        if re.fullmatch(pattern, name):
            return mean, deviation
    gain = next(gain for pattern, gain in _GAINS if re.fullmatch(pattern, name))
    return 0.0, gain / math.sqrt(math.prod(shape[1:]))
