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
SMALL = Setting(num_warps=4, constants={"TILE": 512, "ROWS": 4, "COLUMNS": 16, "GROUPS": 2})
HEADS = 2
WINDOWS = 6
GOLDEN = (
    "dit_stream_official_16x24_lr11_k2.0",
    "dit_stream_official_16x24_lr3_k0.3",
    "dit_stream_streaming_16x24_lr11_k2.0",
    "dit_stream_streaming_16x24_lr3_k0.3",
    "dit_stream_streaming_24x24_lr3_k0.3",
)


def launch(probability, slot_valid, top_k):
    from flashvsr_trt.kernels.select_blocks_triton import launch_select_blocks

    return launch_select_blocks(probability, slot_valid, top_k, SMALL)


def assert_same_blocks(run_kernel, probability, slot_valid, top_k):
    index, count = run_kernel(launch, probability, slot_valid, top_k)
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
def test_hard_inputs_give_the_twins_blocks(run_kernel, kind, top_k):
    assert_same_blocks(run_kernel, hard_probability(kind), torch.tensor([True]), top_k)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_random_maps_give_the_twins_blocks(run_kernel, data):
    rows, columns, local_range = (data.draw(st.integers(1, 4)) for _ in range(3))
    units = data.draw(st.integers(1, 3))
    slot_valid = torch.tensor(data.draw(st.lists(st.booleans(), max_size=4)), dtype=torch.bool)
    windows = rows * columns
    top_k = data.draw(st.integers(0, 2 * windows * windows))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    q_means = torch.randn(units * windows, HEADS, 32, generator=generator)
    k_means = torch.randn((len(slot_valid) + units) * windows, HEADS, 32, generator=generator)
    neighbourhood = local_neighbourhood(rows, columns, local_range)
    probability = block_probability(q_means, k_means, slot_valid, neighbourhood)
    assert_same_blocks(run_kernel, probability, slot_valid, top_k)


def test_more_rows_and_columns_than_one_tile(run_kernel):
    generator = torch.Generator().manual_seed(5)
    probability = torch.rand((1, 1, 30, 5 * 30), generator=generator)
    probability[..., 3 * 30 : 4 * 30] = 0
    assert_same_blocks(run_kernel, probability, torch.tensor([True, True, True, False]), 1000)


@pytest.mark.parametrize("name", GOLDEN)
def test_official_probabilities_give_the_official_mask(run_kernel, name):
    case = load_case(name)
    maps = case.under("dbg.prob.")
    windows = min(probability.shape[1] for probability in maps.values())
    top_k = int(windows * windows * case.config["topk_ratio"]) - 1
    for call, probability in maps.items():
        by_unit = probability.unflatten(1, (-1, windows))
        past = torch.ones(probability.shape[2] // windows - by_unit.shape[1], dtype=torch.bool)
        index, count = run_kernel(launch, by_unit, past, top_k)
        assert torch.equal(expand_mask(index, count), case[f"dbg.mask.{call}"][0])


def test_compact_and_expand_are_inverse():
    mask = torch.rand(3, 5, 40, generator=torch.Generator().manual_seed(0)) < 0.3
    assert torch.equal(expand_mask(*compact_mask(mask)), mask)


@pytest.mark.parametrize(
    ("probability", "slots", "message"),
    [
        (torch.rand(1, 1, 4, 8, dtype=torch.float64), 1, "float32"),
        (torch.rand(1, 1, 4, 16)[..., ::2], 1, "contiguous"),
        (torch.rand(1, 1, 4, 8), 2, "do not fit"),
        (torch.rand(1, 1, 1, 18), 17, "17 ring slots"),
    ],
)
def test_unusable_arguments_are_refused(run_kernel, probability, slots, message):
    with pytest.raises(ValueError, match=message):
        run_kernel(launch, probability, torch.ones(slots, dtype=torch.bool), 3)
