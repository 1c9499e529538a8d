import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashvsr_trt.kernels.select_blocks import (
    block_probability,
    compact_mask,
    expand_mask,
    local_neighbourhood,
    select_blocks_reference,
)
from flashvsr_trt.kernels.tuning import Setting
from tests.golden import load_case

# Tiles that small maps cross; two programs a map.
SMALL = Setting(
    num_warps=4, constants={"TILE": 512, "LANES": 128, "ROWS": 4, "COLUMNS": 16, "GROUPS": 2, "HELD": 8}
)
# Its scratch has room for 24 lines of 32 lanes, of which it holds 16, as it has for 37 of 512 at full size.
NARROW = Setting(
    num_warps=4, constants={"TILE": 256, "LANES": 32, "ROWS": 8, "COLUMNS": 128, "GROUPS": 3, "HELD": 16}
)
HEADS = 2
WINDOWS = 6
GOLDEN = (
    "dit_stream_official_16x24_lr11_k2.0",
    "dit_stream_official_16x24_lr3_k0.3",
    "dit_stream_streaming_16x24_lr11_k2.0",
    "dit_stream_streaming_16x24_lr3_k0.3",
    "dit_stream_streaming_24x24_lr3_k0.3",
)


def launch(probability, slot_valid, top_k, setting=SMALL):
    from flashvsr_trt.kernels.select_blocks_triton import launch_select_blocks

    return launch_select_blocks(probability, slot_valid, top_k, setting)


def launch_and_record(probability, slot_valid, top_k, setting):
    """`launch`, and for each time that a program collected: the most lines of a lane and the room, [n, 2]."""
    from flashvsr_trt.kernels import select_blocks_triton

    collect = select_blocks_triton._collect
    collected = []

    def record(source, size, low, high, scratch, room, *constants):
        filled, reach = collect(source, size, low, high, scratch, room, *constants)
        collected.append((int(filled.handle.data.max()), int(room)))
        return filled, reach

    select_blocks_triton._collect = record
    try:
        index, count = launch(probability, slot_valid, top_k, setting)
    finally:
        select_blocks_triton._collect = collect
    return index, count, torch.tensor(collected).view(-1, 2)


def assert_same_blocks(run_kernel, probability, slot_valid, top_k, setting=SMALL):
    index, count = run_kernel(launch, probability, slot_valid, top_k, setting)
    expected_index, expected_count = select_blocks_reference(probability, slot_valid, top_k)
    assert torch.equal(count, expected_count)
    assert torch.equal(index, expected_index)


def hard_probability(kind: str) -> torch.Tensor:
    shape = (HEADS, 1, WINDOWS, 2 * WINDOWS)
    random = torch.rand(shape, generator=torch.Generator().manual_seed(3))
    match kind:
        case "all equal":
            return torch.full(shape, 0.25)
        case "all zero":
            return torch.zeros(shape)
        case "one block":
            return torch.zeros(shape).index_put_(tuple(torch.tensor([0, 0, 3, 7])), torch.tensor(1.0))
        case "duplicates":
            return (random * 4).floor() / 4
        case "empty rows":
            return random * (torch.arange(WINDOWS) % 2)[:, None]
        case "denormals":
            return random * 1e-40
        case "neighbouring floats":
            steps = torch.arange(random.numel(), dtype=torch.int32).view(shape)
            return (torch.tensor(1.0).view(torch.int32) + steps).view(torch.float32)
        case "negative zero":
            return torch.where(random < 0.5, -0.0, random)
    raise ValueError(kind)


@pytest.mark.parametrize("top_k", [0, 1, 17, WINDOWS * 2 * WINDOWS - 1, 10**6])
@pytest.mark.parametrize(
    "kind",
    [
        "all equal",
        "all zero",
        "one block",
        "duplicates",
        "empty rows",
        "denormals",
        "neighbouring floats",
        "negative zero",
    ],
)
def test_hard_inputs_give_the_references_blocks(run_kernel, kind, top_k):
    assert_same_blocks(run_kernel, hard_probability(kind), torch.tensor([True]), top_k)


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_random_maps_give_the_references_blocks(run_kernel, data):
    rows, columns, local_range = (data.draw(st.integers(1, 4)) for _ in range(3))
    units = data.draw(st.integers(1, 3))
    slot_valid = torch.tensor(data.draw(st.lists(st.booleans(), max_size=4)), dtype=torch.bool)
    own = units * (data.draw(st.booleans()) or not slot_valid.any())
    windows = rows * columns
    top_k = data.draw(st.integers(0, 2 * windows * windows))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    q_means = torch.randn(units * windows, HEADS, 32, generator=generator)
    k_means = torch.randn((len(slot_valid) + own) * windows, HEADS, 32, generator=generator)
    neighbourhood = local_neighbourhood(rows, columns, local_range)
    probability = block_probability(q_means, k_means, slot_valid, neighbourhood)
    assert_same_blocks(run_kernel, probability, slot_valid, top_k)


def test_more_rows_and_columns_than_one_tile(run_kernel):
    generator = torch.Generator().manual_seed(5)
    probability = torch.rand((1, 1, 30, 5 * 30), generator=generator)
    probability[..., 3 * 30 : 4 * 30] = 0
    assert_same_blocks(run_kernel, probability, torch.tensor([True, True, True, False]), 1000)


def wide_probability(kind: str, windows: int = 24) -> torch.Tensor:
    """[1, 1, W, 4*W]: with 3 slots and 1 unit the shape of the large maps."""
    shape = (1, 1, windows, 4 * windows)
    generator = torch.Generator().manual_seed(7)
    random = torch.rand(shape, generator=generator)
    position = torch.arange(random.numel()).view(shape)
    match kind:
        case "nearly uniform":
            return (1 + 0.02 * torch.randn(shape, generator=generator)) / (4 * windows)
        case "softmax":
            return torch.softmax(2 * torch.randn(shape, generator=generator), dim=-1)
        case "half zero":
            return torch.where(position % 3 < 2, 0.0, random)
        case "denormals":
            return random * 1e-39
        case "sorted":
            return position / random.numel()
        case "ties at the threshold":
            return torch.where(position % 5 < 3, 0.5, random)
        case "all equal":
            return torch.full(shape, 0.25)
        case "all zero":
            return torch.zeros(shape)
        case "one lane":
            return torch.where(position % 32 == 0, 0.5 + 1e-3 * random, (position % 2) * 0.9)
    raise ValueError(kind)


COLLECTED = ("nearly uniform", "softmax", "half zero", "denormals", "sorted")
NEVER_COLLECTED = ("ties at the threshold", "all equal", "all zero")


@pytest.mark.parametrize("top_k", [0, 2200])
@pytest.mark.parametrize("kind", [*COLLECTED, *NEVER_COLLECTED, "one lane"])
def test_wide_maps_give_the_references_blocks(run_kernel, kind, top_k):
    probability = wide_probability(kind)
    assert_same_blocks(run_kernel, probability, torch.ones(3, dtype=torch.bool), top_k, NARROW)


@pytest.mark.skipif(torch.cuda.is_available(), reason="only the interpreter's functions can be recorded")
@pytest.mark.parametrize("kind", [*COLLECTED, *NEVER_COLLECTED, "one lane"])
def test_few_entries_are_collected_and_many_or_uneven_ones_are_not(run_kernel, kind):
    probability = wide_probability(kind)
    ranks = {"half zero": 400, "one lane": int((probability > 0.8).sum()) + 36}
    top_k = ranks.get(kind, 1151)
    arguments = (probability, torch.ones(3, dtype=torch.bool), top_k)
    index, count, collected = run_kernel(launch_and_record, *arguments, NARROW)
    expected_index, expected_count = select_blocks_reference(*arguments)
    assert torch.equal(index, expected_index)
    assert torch.equal(count, expected_count)
    filled, room = collected.view(NARROW.constants["GROUPS"], -1, 2).unbind(-1)
    assert (room == NARROW.constants["HELD"]).all()
    # Every program is the same: it collects once or more, and the last time, if ever, holds all.
    assert torch.equal(filled[:, -1] <= room[:, -1], torch.full([len(filled)], kind not in NEVER_COLLECTED))
    assert (filled[:, 0] > room[:, 0]).all() == (kind in (*NEVER_COLLECTED, "one lane"))


@pytest.mark.parametrize("windows", [1, 2, 4, 11])
def test_programs_of_uneven_or_no_rows(run_kernel, windows):
    probability = wide_probability("nearly uniform", windows)
    probability[..., windows : 2 * windows] = 0
    slot_valid = torch.tensor([True, False, True])
    for top_k in (0, windows * windows, 10**6):
        assert_same_blocks(run_kernel, probability, slot_valid, top_k, NARROW)


@pytest.mark.parametrize("name", GOLDEN)
def test_official_probabilities_give_the_official_mask(run_kernel, name):
    case = load_case(name)
    maps = case.under("dbg.prob.")
    windows = min(probability.shape[1] for probability in maps.values())
    top_k = int(windows * windows * case.config["topk_ratio"]) - 1
    # Of maps of one shape the first and the last: each program is interpreted; the reference gives all masks.
    of_shape = {}
    for call, probability in maps.items():
        of_shape.setdefault(probability.shape, []).append(call)
    for call in {end for calls in of_shape.values() for end in (calls[0], calls[-1])}:
        probability = maps[call]
        by_unit = probability.unflatten(1, (-1, windows))
        past = torch.ones(probability.shape[2] // windows - by_unit.shape[1], dtype=torch.bool)
        index, count = run_kernel(launch, by_unit, past, top_k, NARROW)
        assert torch.equal(expand_mask(index, count), case[f"dbg.mask.{call}"][0])


def test_compact_and_expand_are_inverse():
    mask = torch.rand(3, 5, 40, generator=torch.Generator().manual_seed(0)) < 0.3
    assert torch.equal(expand_mask(*compact_mask(mask)), mask)


@pytest.mark.parametrize(
    ("probability", "slots", "message"),
    [
        (torch.rand(1, 1, 4, 8, dtype=torch.float64), 1, "float32"),
        (torch.rand(1, 1, 4, 16)[..., ::2], 1, "contiguous"),
        (torch.rand(1, 1, 4, 8), 3, "do not fit"),
        (torch.rand(1, 1, 1, 18), 17, "17 ring slots"),
    ],
)
def test_unusable_arguments_are_refused(run_kernel, probability, slots, message):
    with pytest.raises(ValueError, match=message):
        run_kernel(launch, probability, torch.ones(slots, dtype=torch.bool), 3)


def test_slots_that_are_no_flags_are_refused(run_kernel):
    with pytest.raises(ValueError, match=r"slot_valid must be contiguous bool, not torch\.int64"):
        run_kernel(launch, torch.rand(1, 1, 4, 8), torch.ones(1, dtype=torch.int64), 3)
