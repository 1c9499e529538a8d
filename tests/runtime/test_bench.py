"""What `flashvsr-trt bench` makes of its times."""

import pytest

from flashvsr_trt.runtime.bench import percentile


@pytest.mark.parametrize(
    ("count", "percent", "expected"),
    [(1, 50, 1), (4, 50, 2), (4, 51, 3), (10, 90, 9), (10, 99, 10), (100, 99, 99), (3, 100, 3)],
)
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(count, percent, expected):
    values = [float(value) for value in range(count, 0, -1)]
    assert percentile(values, percent) == expected
