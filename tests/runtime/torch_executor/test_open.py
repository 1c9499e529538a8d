"""The torch backend opened on a GPU as the command line opens it, with torch's own checks of its arguments.

Only what torch calls natively is a double here: the functions of `torch.cuda` run as they are.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.memory import LIBRARY_BYTES, Parking, Ring, place_tiles
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.request import ExecutorRequest, TileOptions, TorchOptions, UpscaleOptions
from flashvsr_trt.runtime.torch import device_memory
from flashvsr_trt.runtime.torch import open as opening
from flashvsr_trt.runtime.torch.device_memory import (
    check_memory,
    estimate_on,
    free_memory,
    storage_of,
    stream_memory,
)

MIB = 2**20
TOTAL, FREE = 4096 * MIB, 3000 * MIB
GPUS = 2


class NativeCuda:
    """What torch's CUDA build calls natively; a device is a number there."""

    def __init__(self) -> None:
        self.current = 1
        self.fractions: dict[int, float] = {}
        self.settings: list[str] = []

    def memory_info(self, device: int) -> tuple[int, int]:
        assert type(device) is int
        return FREE, TOTAL

    def set_memory_fraction(self, fraction: float, device: int) -> None:
        assert type(device) is int
        self.fractions[device] = fraction

    def properties(self, device: int) -> SimpleNamespace:
        assert type(device) is int
        return SimpleNamespace(total_memory=TOTAL, major=9, minor=0)


@pytest.fixture
def cuda(monkeypatch):
    native = NativeCuda()
    for module in (torch.cuda, torch.cuda.memory):
        monkeypatch.setattr(module, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: GPUS)
    runtime = SimpleNamespace(cudaMemGetInfo=native.memory_info)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(torch.cuda, "_get_device_properties", native.properties, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_getDevice", lambda: native.current, raising=False)
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", native.set_memory_fraction, raising=False)
    monkeypatch.setattr(torch._C, "_accelerator_setAllocatorSettings", native.settings.append)
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    build = opening.build_network

    def build_on_cpu(config, weights, device, dtype, fp8=None):
        assert device.type == "cuda"
        return build(config, weights, torch.device("cpu"), dtype, fp8)

    monkeypatch.setattr(opening, "build_network", build_on_cpu)
    return native


def stream_of(height: int = 100, width: int = 170) -> StreamConfig:
    return StreamConfig(find_preset("nano"), Geometry(height, width, 2), find_schedule("low-latency"))


def opened(device: str, tiles: TileOptions, **torch_options):
    options = TorchOptions(**torch_options)
    return open_executor(
        "torch", ExecutorRequest(stream_of(), "random:1", device, torch=options, tiles=tiles)
    )


@pytest.mark.parametrize(
    ("device", "number", "options"),
    [
        ("auto", 1, {}),
        ("cuda", 1, {"kv_cache": "fp8"}),
        ("cuda:0", 0, {"precision": "fp8-attention"}),
    ],
)
def test_tiles_are_held_to_vram(cuda, device, number, options):
    executor = opened(device, TileOptions((256, 256), 600 * MIB), **options)
    assert len(executor.plan.tiles) == 2
    assert list(cuda.fractions) == [number]
    assert cuda.fractions[number] * TOTAL == pytest.approx(600 * MIB)
    assert cuda.settings == ["expandable_segments:True"]


def test_tiles_without_vram_may_take_what_is_free(cuda):
    opened("auto", TileOptions((256, 256)))
    assert cuda.fractions == {1: pytest.approx((FREE - LIBRARY_BYTES) / TOTAL)}


def test_one_piece_under_vram_is_held_to_it_and_the_next_without_vram_to_nothing(cuda):
    opened("auto", TileOptions("off", 700 * MIB))
    assert cuda.fractions == {1: pytest.approx(700 * MIB / TOTAL)}
    opened("auto", TileOptions("off"))
    assert cuda.fractions == {1: 1.0}


def test_what_the_process_has_on_the_gpu_is_not_counted_and_what_torch_keeps_free_is(cuda, monkeypatch):
    held, kept = 500 * MIB, 300 * MIB
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device=None: held)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device=None: held + kept)
    assert free_memory(torch.device("cuda")) == FREE + kept - LIBRARY_BYTES
    opened("auto", TileOptions("off", 700 * MIB))
    assert cuda.fractions == {1: pytest.approx((held + 700 * MIB) / TOTAL)}


def test_weights_that_are_loaded_are_not_counted_twice(cuda, monkeypatch):
    networks, held = {}, []
    options = UpscaleOptions(
        preset="nano", schedule="low-latency", weights="random:1", tile=(256, 256), vram=600 * MIB
    )
    for _ in range(2):
        executor = open_executor("torch", options.request(options.stream(100, 170), networks=networks))
        held.append(cuda.fractions[1] * TOTAL)
    whole = stream_memory(executor.stream, torch.bfloat16, executor.plan, Parking.GPU)
    assert held[0] - held[1] == pytest.approx(whole.weights)


def test_settings_of_the_environment_stay(cuda, monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "max_split_size_mb:128")
    opened("auto", TileOptions("off", 700 * MIB))
    assert cuda.settings == []


def test_too_little_vram_names_the_least_and_the_least_is_enough(cuda):
    with pytest.raises(UsageError, match=r"the least that this stream needs is ([\d.]+)G") as refused:
        opened("auto", TileOptions(vram=60 * MIB))
    least = float(str(refused.value).split("needs is ")[1].split("G")[0])
    opened("auto", TileOptions(vram=int(least * 2**30)))


def test_a_gpu_that_is_full_is_said_to_be(cuda, monkeypatch):
    full = SimpleNamespace(cudaMemGetInfo=lambda device: (LIBRARY_BYTES + 60 * MIB, TOTAL))
    monkeypatch.setattr(torch.cuda, "cudart", lambda: full)
    with pytest.raises(DeviceError, match="the least that this stream needs is"):
        opened("auto", TileOptions())


def test_what_is_kept_in_fp8_is_counted_as_such():
    network = find_preset("sparse-2.0").network
    stream = StreamConfig(find_preset("sparse-2.0"), Geometry(384, 640, 2), find_schedule("official"))
    wide = storage_of(network, torch.bfloat16)
    scaled, widened = (storage_of(network, torch.bfloat16, ring) for ring in (Ring.SCALED, Ring.WIDENED))
    products = storage_of(network, torch.bfloat16, fp8=lambda name: name != "attention")
    attention = storage_of(network, torch.bfloat16, fp8=lambda name: True)
    some = storage_of(network, torch.bfloat16, fp8=lambda name: name.endswith("ffn.2"))
    assert (wide.ring, scaled.ring, attention.ring) == (Ring.COMPUTE, Ring.SCALED, Ring.ATTENDED)
    place = [stream_memory(stream, torch.bfloat16, storage=kept).state for kept in (widened, scaled)]
    means = 4 * 60 * 1536 * 4
    assert place[0] - place[1] == 2 * 4 * 7680 * 1536 * 2 + means
    linear = 30 * (6 * 1536**2 + 2 * 1536 * 8960 - 2 * 512 * 1536)
    convolved = 36 * (768 * 2048 + 2048 * 3072)
    assert wide.weights - products.weights == pytest.approx(linear + convolved, rel=0.002)
    assert wide.weights - some.weights == pytest.approx(30 * 1536 * 8960, rel=0.01)
    totals = [stream_memory(stream, torch.bfloat16, storage=kept) for kept in (wide, scaled, attention)]
    assert totals[2].state < totals[1].state < 0.6 * totals[0].state
    ring = np.prod((30, 2, 4, 7680, 1536))
    assert totals[0].state - totals[2].state == ring


def test_a_small_tile_in_fp8_still_needs_what_loading_takes():
    stream = StreamConfig(find_preset("sparse-2.0"), Geometry(256, 400, 2), find_schedule("official"))
    storage = storage_of(stream.preset.network, torch.bfloat16, fp8=lambda name: True)
    plan = TilePlan(stream.geometry, (256, 256))
    places = place_tiles(stream, plan, storage, 0)
    assert places.needed.total == storage.loading
    # Rings stay in the room that loading had.
    loaded = place_tiles(stream, plan, storage, storage.loading)
    assert loaded.needed.total == pytest.approx(storage.loading, rel=0.01)
    assert loaded.resident > places.resident


def test_a_cpu_is_asked_for_what_a_run_takes_there(monkeypatch):
    stream, cpu = stream_of(), torch.device("cpu")
    needed = estimate_on(cpu, torch.float32)(stream, None).total
    monkeypatch.setattr(device_memory, "free_memory", lambda device: needed)
    check_memory(stream, cpu, torch.float32)
    monkeypatch.setattr(device_memory, "free_memory", lambda device: needed - 1)
    with pytest.raises(DeviceError, match="cpu has"):
        check_memory(stream, cpu, torch.float32)


def test_the_least_of_a_graphs_pool_is_counted_where_it_is_more_than_a_share_of_all():
    """An H100 reserved 370 MiB for nano in tiles, at 8603cfd. What is predicted of large streams stays."""
    nano = stream_memory(
        StreamConfig(find_preset("nano"), Geometry(100, 170, 2), find_schedule("official")),
        torch.bfloat16,
        TilePlan(Geometry(100, 170, 2), (256, 256)),
        Parking.GPU,
    )
    assert 370 * MIB <= nano.total <= 1.05 * 370 * MIB
    large = StreamConfig(find_preset("sparse-2.0"), Geometry(720, 1280, 2), find_schedule("official"))
    assert stream_memory(large, torch.bfloat16).total / 2**30 == pytest.approx(40.64, abs=0.005)
