"""The torch backend opened: device and dtype, what fits, weights; in tiles where a frame does not fit."""

from collections.abc import Callable

import torch

from flashvsr_trt.errors import UsageError
from flashvsr_trt.memory import GIB, Parking, TilePlaces, place_tiles
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.model.weights.load import WeightsSource, describe, load_weights, resolve_weights
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.choose_tiles import choose_tiles
from flashvsr_trt.runtime.request import ExecutorRequest
from flashvsr_trt.runtime.tiles import TiledExecutor
from flashvsr_trt.runtime.torch.device import check_kernels, choose_cuda_graphs, choose_device, choose_dtype
from flashvsr_trt.runtime.torch.device_memory import (
    bound_memory,
    estimate_on,
    free_memory,
    kept_ring,
    storage_of,
)
from flashvsr_trt.runtime.torch.executor import TorchExecutor
from flashvsr_trt.runtime.torch.host_memory import (
    KEPT_ON_HOST,
    keep_freed_memory,
    return_freed_memory,
)
from flashvsr_trt.runtime.torch.precision import check_fp8, fp8_lines, fp8_products
from flashvsr_trt.runtime.torch.tiles import in_tiles


def open_torch_executor(request: ExecutorRequest, notify: Notify) -> TorchExecutor | TiledExecutor:
    """Choose device and dtype, check that the stream fits, load the weights.

    Raises:
        UsageError: an unknown device or dtype, CUDA graphs without a GPU, or as `fp8_products`.
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
    check_fp8(request.torch, request.stream)
    network = request.stream.preset.network
    fp8 = fp8_products(request.torch, device, dtype, network)
    source = resolve_weights(request.weights, network)
    ring = kept_ring(request.torch.kv_cache, request.stream.preset, device)
    storage = storage_of(network, dtype, ring, fp8)
    key = source, network, device, dtype, request.torch.precision, request.torch.calibration
    estimate = estimate_on(device, dtype, storage)
    # Estimates count weights, and these may be there already.
    shared = estimate(request.stream, None).weights if key in request.networks else 0
    free = free_memory(device) + shared
    plan = choose_tiles(request.stream, request.tiles, estimate, free, str(device), notify)
    budget = min(free, request.tiles.vram or free)
    if device.type == "cpu" and not plan and KEPT_ON_HOST * estimate(request.stream, None).total <= budget:
        keep_freed_memory()
    elif device.type == "cpu":
        return_freed_memory()
    places = None
    if device.type == "cuda" and plan:
        places = place_tiles(request.stream, plan, storage, budget)
        _say_where(places, request.torch.cuda_graphs, notify)
    if device.type == "cuda":
        bound_memory(device, budget - shared if plan or request.tiles.vram else None)
    loaded = request.networks.get(key)
    if loaded is None:
        loaded = request.networks[key] = _load(request, source, device, dtype, fp8, notify)
    if plan is None:
        return TorchExecutor(loaded, request.stream, request.torch)
    executor = TorchExecutor(loaded, plan.tile_stream(request.stream), request.torch)
    if places is None:
        return in_tiles(executor, request.stream, plan)
    return in_tiles(executor, request.stream, plan, places.parking, places.resident)


def _load(
    request: ExecutorRequest,
    source: WeightsSource,
    device: torch.device,
    dtype: torch.dtype,
    fp8: Callable[[str], bool] | None,
    notify: Notify,
) -> Network:
    notify(describe(source))
    network = request.stream.preset.network
    weights = load_weights(source, network, dtype)
    for line in fp8_lines(request.torch, network, device, weights.fingerprint):
        notify(line)
    return build_network(network, weights, device, dtype, fp8)


def _say_where(places: TilePlaces, cuda_graphs: bool | None, notify: Notify) -> None:
    if places.parking is Parking.GPU:
        return
    if cuda_graphs:
        raise UsageError(
            "tiles that wait on the host run without CUDA graphs; leave out --cuda-graphs, "
            "or give more --vram"
        )
    notify(
        f"tiles wait in {places.on_host / GIB:.1f} GiB of host memory, {places.resident / GIB:.1f} GiB of "
        f"their K/V rings stay on the GPU; a layer's ring at a time comes there, without CUDA graphs"
    )
