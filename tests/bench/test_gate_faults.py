"""Planted faults fail their lines and no others: here in one process, in full by `make gate-selftest`."""

from dataclasses import replace

import pytest

from bench.gate import faults
from bench.gate.cases import read_cases, read_thresholds
from bench.gate.compare import lines_of
from bench.gate.measure import ROOT, open_case
from bench.gate.selftest import EXPECTED, TIMED, failed

CASES, THRESHOLDS = read_cases(ROOT), read_thresholds(ROOT)
MEASURED = ("parity/golden-streaming", "counts/chunk", "memory/chunk")
"""For every fault; a longer clip where only that shows it."""


def measured(name: str) -> dict[str, float]:
    """On a smaller frame than the gate's own."""
    case = CASES[name]
    return open_case(replace(case, options={"size": "64x64"}) if "size" in case.options else case)()


@pytest.fixture(scope="module")
def clean():
    return {name: measured(name) for name in (*MEASURED, "parity/golden-official")}


@pytest.mark.parametrize("fault", [fault for fault in EXPECTED if fault not in TIMED])
def test_a_fault_fails_its_lines_alone(fault, clean, monkeypatch):
    shown = {name.split(":")[0] for name in EXPECTED[fault]}
    names = MEASURED if shown & set(MEASURED) else (*MEASURED, "parity/golden-official")
    faults.plant(fault, monkeypatch.setattr)
    lines = [x for name in names for x in lines_of(CASES[name], clean[name], measured(name), THRESHOLDS)]
    assert failed(lines) == {name for name in EXPECTED[fault] if name.split(":")[0] in names}


def test_every_fault_is_expected_to_fail_something():
    assert faults.FAULTS.keys() == EXPECTED.keys()
