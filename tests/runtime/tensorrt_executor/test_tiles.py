"""Tiles of engines: rings that wait on the host come back as they were, and what cannot fit is refused."""

from dataclasses import replace

import numpy as np
import pytest

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.signatures import DIT
from flashvsr_trt.config.tiles import TilePlan
from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.runtime.ring import KVRing
from flashvsr_trt.runtime.tensorrt import tiles as engine_tiles
from flashvsr_trt.runtime.tensorrt.clip_memory import clip_layout, ring_layout
from flashvsr_trt.runtime.tensorrt.tiles import RingsFromHost, in_tiles
from flashvsr_trt.runtime.tiles import OwnStates
from tests.runtime.device_double import DeviceDouble
from tests.runtime.tensorrt_double import open_executor


def seen_by_steps(states, executor, count: int, clips: int = 2) -> list[list[bytes]]:
    """What each step of each tile finds in the slots that it sees; it writes numbers of its own."""
    device, found, calls = executor.device, [], 0
    units = executor.stream.schedule.first_units
    for _ in range(clips):
        ring, seen = KVRing(executor.stream.preset.attention), []
        for step in [ring.step(units), *(ring.step(1) for _ in range(6))]:
            for number in range(count):
                calls += 1
                with states.use(number, DIT, step) as state:
                    memory = state.memory
                    rows = [
                        (memory.part(name, slot), memory.size(name) // memory.specs[name].shape[0], slot)
                        for name in ring_layout(executor.stream, "float32").offsets
                        for slot in range(len(step.valid))
                    ]
                    run = put_step(device, rows, step, calls, seen)
                    device.put(executor.compute, ("step", number), run)
        device.synchronize(executor.compute)
        states.reset()
        found.append(seen)
    return found


def put_step(device, rows, step, calls, seen):
    def run() -> None:
        for address, size, slot in rows:
            part = device.memory(address, size)
            if slot in step.seen:
                seen.append(part[::997].tobytes())
            elif slot in step.written:
                part[:] = np.arange(size) * calls % 251

    return run


@pytest.mark.parametrize("ahead", [(), "compute", "copies"])
@pytest.mark.parametrize("places", [1, 2])
def test_a_ring_that_waits_on_the_host_comes_back_as_it_was(dense_bundle, places, ahead):
    made = []
    for parked in (False, True):
        device = DeviceDouble()
        executor = open_executor(dense_bundle, device=device)
        states = RingsFromHost(executor, 3, places) if parked else OwnStates(executor, 3)
        if ahead == "compute":
            device.ahead = frozenset({executor.compute})
        elif ahead and parked:
            device.ahead = frozenset({states.loading, states.storing})
        made.append(seen_by_steps(states, executor, 3))
    assert made[0] == made[1]
    assert len(set(made[0][0])) > 2


def test_all_memory_goes_back(dense_bundle):
    device = DeviceDouble()
    executor = open_executor(dense_bundle, device=device)
    before = device.taken, len(device.pinned)
    states = RingsFromHost(executor, 3, 2)
    layout = clip_layout(executor.stream, "float32", with_ring=False).size
    ring = ring_layout(executor.stream, "float32").size
    assert device.taken - before[0] == 3 * layout + 2 * ring
    del states
    assert (device.taken, len(device.pinned)) == before


def opened(bundle, total: int, vram: int | None = None):
    """A frame of three tiles. The engines are of another size, which nothing here depends on."""
    executor = open_executor(bundle, device=DeviceDouble(total=total))
    stream = replace(bundle.stream, geometry=Geometry(120, 300, 2))
    said: list[str] = []
    return in_tiles(executor, stream, TilePlan(stream.geometry, (256, 256)), vram, said.append), said


@pytest.fixture
def sizes(dense_bundle):
    """Bytes that engines take, a tile without its ring, and a ring."""
    executor = open_executor(dense_bundle)
    loaded = executor.needed.weights + executor.needed.working
    own = clip_layout(dense_bundle.stream, "float32", with_ring=False).size
    return loaded, own, ring_layout(dense_bundle.stream, "float32").size


@pytest.mark.parametrize(("places", "said"), [(3, None), (2, "2 at a time"), (1, "1 at a time")])
@pytest.mark.parametrize("by_vram", [True, False])
def test_rings_wait_where_they_fit(dense_bundle, sizes, places, said, by_vram):
    loaded, own, ring = sizes
    needed = loaded + 3 * own + places * ring
    executor, lines = opened(dense_bundle, 2**34 if by_vram else needed, needed if by_vram else None)
    assert "3 tiles of 256x256" in lines[0]
    assert (said is None) == (len(lines) == 1)
    if said:
        assert said in lines[1]
    state = executor.new_state()
    assert isinstance(state.tiles, OwnStates if places == 3 else RingsFromHost)
    assert executor.executor.device.taken <= needed


def test_less_than_the_least_is_refused_and_the_least_is_named(dense_bundle, sizes, monkeypatch):
    loaded, own, ring = sizes
    least = loaded + 3 * own + ring
    with pytest.raises(UsageError, match=f"3 tiles of 256x256 need {least / 2**30 + 0.005:.2f}G"):
        opened(dense_bundle, 2**34, least - 1)
    with pytest.raises(DeviceError, match="build engines of smaller tiles"):
        opened(dense_bundle, least - 1)
    monkeypatch.setattr(engine_tiles, "free_host_memory", lambda: 3 * ring - 1)
    with pytest.raises(DeviceError, match="GiB of host memory"):
        opened(dense_bundle, 2**34, least)
