"""The torch backend opened: device and dtype, what fits, weights; in tiles where a frame does not fit."""

import torch

from flashvsr_trt.model.network import build_network
from flashvsr_trt.model.weights.load import describe, load_weights, resolve_weights
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.choose_tiles import choose_tiles
from flashvsr_trt.runtime.request import ExecutorRequest
from flashvsr_trt.runtime.tiles import TiledExecutor
from flashvsr_trt.runtime.torch.device import (
    check_kernels,
    choose_cuda_graphs,
    choose_device,
    choose_dtype,
    choose_parking,
    estimate_on,
    free_memory,
    resident_bytes,
)
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.host_memory import keep_freed_memory
from flashvsr_trt.runtime.torch.tiles import in_tiles


def open_torch_executor(request: ExecutorRequest, notify: Notify) -> TorchExecutor | TiledExecutor:
    """Choose device and dtype, check that the stream fits, load the weights.

    Raises:
        UsageError: an unknown device or dtype, or CUDA graphs without a GPU.
        DeviceError: no such device, too old a one for the kernels, or too little memory on it.
        MissingDependencyError: the kernels' compiler is not installed.
        WeightsError: no weights, or not the ones the preset needs.
    """
    device = choose_device(request.device)
    dtype = choose_dtype(request.dtype, device)
    # Refused here if they cannot be had, before anything is loaded.
    choose_cuda_graphs(request.torch, device)
    if device.type == "cuda" and request.torch.attention == "auto":
        check_kernels(device)
    if device.type == "cpu":
        keep_freed_memory()
    network = request.stream.preset.network
    source = resolve_weights(request.weights, network)
    free = free_memory(device)
    plan = choose_tiles(
        request.stream,
        request.tiles,
        estimate_on(device, dtype),
        free,
        str(device),
        notify,
    )
    if plan and len(plan.tiles) == 1:
        notify("one tile covers the frame: it runs in one piece")
        plan = None
    budget = min(free, request.tiles.vram or free)
    if request.tiles.vram and device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, budget / total), device)
    notify(describe(source))
    loaded = build_network(network, load_weights(source, network, dtype), device, dtype)
    if plan is None:
        return TorchExecutor(loaded, request.stream, request.torch)
    executor = TorchExecutor(loaded, plan.tile_stream(request.stream), request.torch)
    parking = choose_parking(request.stream, dtype, plan, budget)
    resident = resident_bytes(request.stream, dtype, plan, budget, parking)
    return in_tiles(executor, request.stream, plan, parking, resident)
