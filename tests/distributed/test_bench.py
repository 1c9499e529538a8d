"""The benchmark on CPU ranks: the bytes it counts are the documented ones, and memory is each rank's."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bench import distributed
from bench.distributed_job import Job
from bench.rank_profile import covered
from flashvsr_trt.model.sharding import Sharding
from tests.distributed.traffic import unit_traffic

pytestmark = pytest.mark.slow


def measure(*arguments: object) -> Result:
    return CliRunner().invoke(distributed.main, ["--device", "cpu", "--preset", "nano", *map(str, arguments)])


def memory(row: dict) -> list[tuple[int, int]]:
    """Peak and state of each rank."""
    return list(zip(row["peak_bytes_per_rank"], row["state_bytes_per_rank"], strict=True))


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict]:
    """What is printed for 1 and 2 ranks, and the report."""
    out: Path = tmp_path_factory.mktemp("bench") / "out"
    outcome = measure("--ranks", "1,2", "--size", "64x64", "--chunks", 2, "--profile", "--out", out)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output, json.loads((out / "report.json").read_text())


def test_the_bytes_of_a_chunk_are_the_documented_ones(measured):
    single, shared = measured[1]["rows"]
    stream = Job("nano", (64, 64), 8, "cpu", "auto", 2, None, profile=True).stream
    expected = unit_traffic(Sharding(stream, 2), dtype_bytes=4)
    assert shared["bytes_per_chunk"] == {kind: count for kind, count in expected.items() if count}
    assert shared["total_bytes_per_chunk"] == sum(expected.values())
    assert single["bytes_per_chunk"] == {}


def test_ranks_share_the_state_of_a_single_process(measured):
    single, shared = measured[1]["rows"]
    assert len(shared["state_bytes_per_rank"]) == len(shared["peak_bytes_per_rank"]) == 2
    assert sum(shared["state_bytes_per_rank"]) == sum(single["state_bytes_per_rank"])
    assert all(peak > state for row in (single, shared) for peak, state in memory(row))


def test_efficiency_is_the_speed_up_by_the_number_of_ranks(measured):
    single, shared = measured[1]["rows"]
    assert single["efficiency"] == single["of_one"] == 1
    assert shared["of_one"] == shared["ms_per_chunk"] / single["ms_per_chunk"]
    assert shared["efficiency"] == pytest.approx(1 / shared["of_one"] / 2)


def test_a_profile_tells_transfers_from_other_work(measured):
    single, shared = (row["profile"] for row in measured[1]["rows"])
    assert single["ms_transfer_kernels"] == 0 < shared["ms_transfer_kernels"]
    assert all(0 < len(profile["kernels"]) <= 40 for profile in (single, shared))


def test_spans_that_overlap_count_once():
    assert covered([(5, 6), (0, 2), (1, 4), (3, 3.5)]) == 5


def test_what_is_printed_says_that_times_are_not_those_of_gpus(measured):
    printed, report = measured
    assert printed.startswith(f"{distributed.CPU_NOTE}\n")
    assert report["note"] == distributed.CPU_NOTE
    assert [line.split()[0] for line in printed.splitlines() if line.endswith("  cpu")] == ["1", "2"]
    assert all(kind in printed for kind in report["rows"][1]["bytes_per_chunk"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--ranks", "1,x"), "'1,x' is no list"),
        (("--chunk", "8,9"), "'8,9' is no list"),
        (("--size", "64"), "'64' is not a size"),
        (("--ranks", "0"), "'0' is no list"),
        (("--ranks", "9", "--size", "64x64"), "9 ranks cannot share the 8 rows of tokens"),
        (("--chunks", "0"), "--chunks"),
    ],
)
def test_what_cannot_be_measured_is_a_usage_error(options, message):
    outcome = measure(*options)
    assert outcome.exit_code == 2
    assert message in outcome.output
