"""What ONNX Runtime's function pointers get: scratch memory that is laid out alike each time."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flashvsr_trt.errors import EngineError
from flashvsr_trt.runtime.onnxruntime.memory import Gaps, MeasuringRegion, ScratchRegion, SessionMemory
from tests.runtime.device_double import DeviceDouble

CALLS = st.lists(st.tuples(st.booleans(), st.integers(0, 3000)), max_size=40)


def replayed(region, calls):
    """Allocate, or free the oldest; addresses in order."""
    live, made = [], []
    for take, size in calls:
        if take or not live:
            live.append((region.take(size), size))
            made.append(live[-1][0])
        else:
            region.give(live.pop(0)[0])
    return made, live


@given(CALLS)
@example([(True, 0)] * 3 + [(False, 0)] * 3)
def test_what_was_measured_is_enough_and_nothing_overlaps(calls):
    measured = MeasuringRegion(DeviceDouble())
    replayed(measured, calls)
    base = 4096
    first, live = replayed(ScratchRegion(base, measured.gaps.peak), calls)
    again, _ = replayed(ScratchRegion(base, measured.gaps.peak), calls)
    assert first == again
    assert all(first)
    spans = sorted((address, address + size) for address, size in live)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))
    assert all(end <= base + measured.gaps.peak for _, end in spans)


def test_a_run_that_wants_more_than_was_measured_is_an_error():
    memory = SessionMemory(DeviceDouble())

    def run():
        assert memory.functions[0](4096) is None
        raise RuntimeError("p != nullptr")

    message = "got no memory: a run wants 4,096 bytes more scratch memory"
    with pytest.raises(EngineError, match=message), memory.serving(ScratchRegion(256, 256)):
        run()


def test_what_is_taken_beside_a_run_is_the_devices_and_is_freed_there():
    device = DeviceDouble()
    memory = SessionMemory(device)
    take, give, _ = memory.functions
    address = take(1000)
    assert device.taken == 1000
    with memory.serving(ScratchRegion(2**40, 4096)):
        scratch = take(100)
        assert scratch == 2**40
        give(scratch)
        give(address)
    assert device.taken == 0
    assert not memory.held


def test_an_address_that_nothing_holds_is_an_error():
    memory = SessionMemory(DeviceDouble())
    with pytest.raises(EngineError, match="0x1234 was freed and is not held"), memory.serving(None):
        memory.functions[1](0x1234)


def test_the_lowest_gap_is_taken():
    gaps = Gaps(2048)
    offsets = [gaps.take(256) for _ in range(4)]
    gaps.give(offsets[1])
    assert gaps.take(512) == 1024
    assert gaps.take(1) == 256
    assert gaps.take(2048) is None
