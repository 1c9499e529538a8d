"""What a stream takes of a device with torch, what is free there, and how torch is held to it."""

import math
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache

import torch

from flashvsr_trt.config.presets import NetworkConfig, Preset
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.kernels.block_sparse_attention_scaled import reads_scaled_ring
from flashvsr_trt.memory import (
    LIBRARY_BYTES,
    TORCH_HOST_BYTES,
    MemoryEstimate,
    Parking,
    Ring,
    Storage,
    check_fits,
    estimate_memory,
    estimate_tiled_memory,
)
from flashvsr_trt.model.fused_projector import convolution_sizes
from flashvsr_trt.model.network import fp8_names, is_folded
from flashvsr_trt.model.running_dit import ATTENTION
from flashvsr_trt.model.state_shapes import state_shapes
from flashvsr_trt.process_memory import free_host_memory
from flashvsr_trt.runtime.request import KV_CACHES


def stream_memory(
    stream: StreamConfig,
    dtype: torch.dtype,
    plan: TilePlan | None = None,
    parking: Parking | None = Parking.HOST,
    storage: Storage | None = None,
) -> MemoryEstimate:
    """What a stream needs on a GPU with its preset's own weights, in that dtype or as `storage` says.

    In tiles `parking` is where those that wait are; None is a CPU, where each has memory of its own.
    """
    storage = storage or storage_of(stream.preset.network, dtype)
    if plan is None:
        return estimate_memory(stream, storage, parking is not None)
    return estimate_tiled_memory(stream, plan, storage, parking)


def estimate_on(
    device: torch.device, dtype: torch.dtype, storage: Storage | None = None
) -> Callable[..., MemoryEstimate]:
    """What a stream needs on a device, in tiles or with None in one piece; tiles may wait on the host."""

    def estimate(stream: StreamConfig, plan: TilePlan | None) -> MemoryEstimate:
        if device.type == "cuda":
            return stream_memory(stream, dtype, plan, Parking.HOST, storage)
        needed = stream_memory(stream, dtype, plan, None, storage)
        return replace(needed, working=needed.working + TORCH_HOST_BYTES)

    return estimate


def kept_ring(kv_cache: str, preset: Preset, device: torch.device) -> Ring:
    """In what `--kv-cache` keeps keys and values on a device, and whether attention reads that there."""
    if kv_cache == KV_CACHES[0]:
        return Ring.COMPUTE
    sparse = preset.attention.sparse_ratio is not None
    reads = sparse and reads_scaled_ring(device, preset.network.dit.head_dim)
    return Ring.SCALED if reads else Ring.WIDENED


def storage_of(
    network: NetworkConfig,
    dtype: torch.dtype,
    ring: Ring = Ring.COMPUTE,
    fp8: Callable[[str], bool] | None = None,
) -> Storage:
    """What of a network stays in memory. `fp8` says which products are in FP8, by their names.

    FP8 attention keeps its own ring, whatever `ring` is.
    """
    layers = network.dit.layers
    named = fp8_names(layers) if fp8 else []
    chosen = [name for name in named if fp8 and fp8(name)]
    weights = _parameters(network) * dtype.itemsize
    if ATTENTION in chosen:
        ring = Ring.ATTENDED
    products = [name for name in chosen if name != ATTENTION]
    saved = sum(_saved_in_fp8(network, name, dtype.itemsize) for name in products)
    # The parts that constants are made of are there while they are made.
    loading = weights * 5 // 4
    compute = str(dtype).removeprefix("torch.")
    return Storage(weights - saved, compute, ring, bool(products), loading)


@cache
def _saved_in_fp8(network: NetworkConfig, product: str, size: int) -> int:
    """Bytes less of a product's weights in e4m3, with a scale in float32 a channel."""
    config, convolutions = network.dit, convolution_sizes(network)
    layer = product if product in convolutions else product.split(".", 2)[2]
    inputs, outputs = {
        **{name: (9 * inputs, outputs) for name, (outputs, inputs) in convolutions.items()},
        "self_attn.qkv": (config.dim, 3 * config.dim),
        "ffn.0": (config.dim, config.ffn_dim),
        "ffn.2": (config.ffn_dim, config.dim),
    }.get(layer, (config.dim, config.dim))
    # Attention's values less their mean are kept beside them.
    more = config.text_tokens * config.dim * size if layer == "cross_attn.o" else 0
    return outputs * (inputs * (size - 1) - 4) - more


def bound_memory(device: torch.device, budget: int | None) -> None:
    """Hold torch to `budget` bytes of a GPU beside what it has there; None lets go of an earlier bound.

    Segments grow and shrink page by page then: else what is free is in pieces too small for the next tensor.
    Settings of the environment stay.
    """
    # torch wants a number here: a device may be named without one.
    index = torch.cuda.current_device() if device.index is None else device.index
    if budget is None:
        torch.cuda.set_per_process_memory_fraction(1.0, index)
        return
    total = torch.cuda.get_device_properties(index).total_memory
    most = torch.cuda.memory_allocated(index) + budget
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / total), index)
    given = {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys()
    if sys.platform == "linux" and not given:
        with warnings.catch_warnings():
            # Newer releases would have their other name for it called, which older ones do not have.
            warnings.simplefilter("ignore", FutureWarning)
            torch.cuda.memory._set_allocator_settings("expandable_segments:True")


@cache
def _parameters(network: NetworkConfig) -> int:
    kept = sum(
        math.prod(shape)
        for part in state_shapes(network).values()
        for name, shape in part.items()
        if not is_folded(name)
    )
    return kept + 2 * network.dit.layers * network.dit.text_tokens * network.dit.dim


def free_memory(device: torch.device) -> int:
    """Bytes that torch can take of a GPU, or that this process can still take of the machine's."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return max(0, torch.cuda.mem_get_info(device)[0] + cached - LIBRARY_BYTES)
    return free_host_memory()


def check_memory(stream: StreamConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Refuse a stream that would not fit in one piece, before anything is loaded.

    Raises:
        DeviceError: with the estimate, what is free, and what to change.
    """
    estimate = estimate_on(device, dtype)
    check_fits(stream, lambda smaller: estimate(smaller, None), free_memory(device), str(device))
