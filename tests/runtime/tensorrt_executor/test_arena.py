"""Placing tensors in one block: none that are alive together overlap, and none takes more than it must."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from flashvsr_trt.engines.plan import PlanTensor, SegmentPlan
from flashvsr_trt.runtime.tensorrt.arena import ALIGNMENT, aligned, place_by_lifetime, place_side_by_side


def plan_of(lifetimes):
    tensors = {
        f"t{number}": PlanTensor(f"t{number}", "uint8", (size,), None, begin, begin + length)
        for number, (size, begin, length) in enumerate(lifetimes)
    }
    return SegmentPlan("dit", (), tensors, (), ())


def alive_together(first, second):
    return first.written <= second.last_read and second.written <= first.last_read


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 20), st.integers(0, 6)), max_size=30))
def test_tensors_that_are_alive_together_do_not_overlap(lifetimes):
    plan = plan_of(lifetimes)
    layout = place_by_lifetime(plan)
    tensors = list(plan.carried)
    for number, first in enumerate(tensors):
        start = layout.offsets[first.name]
        assert start % ALIGNMENT == 0
        assert start + first.size_bytes <= layout.size
        for second in tensors[:number]:
            other = layout.offsets[second.name]
            apart = start + first.size_bytes <= other or other + second.size_bytes <= start
            assert apart or not alive_together(first, second)
    assert layout.size <= sum(aligned(tensor.size_bytes) for tensor in tensors)


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_tensors_that_follow_each_other_share_the_room_of_the_largest(sizes):
    layout = place_by_lifetime(plan_of([(size, 2 * step, 1) for step, size in enumerate(sizes)]))
    assert layout.size == aligned(max(sizes))


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 5000), max_size=20))
def test_side_by_side_there_are_no_gaps_but_for_alignment(sizes):
    layout = place_side_by_side(sizes)
    assert layout.size == sum(map(aligned, sizes.values()))
    starts = sorted((layout.offsets[name], name) for name, size in sizes.items() if size)
    for (start, name), (following, _) in pairwise(starts):
        assert start + aligned(sizes[name]) == following
