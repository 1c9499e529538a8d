"""What `doctor` ends with."""

import json
import re

import pytest

from flashvsr_trt.cli import verdict
from flashvsr_trt.engines.device import Device
from flashvsr_trt.runtime.torch import device_memory
from tests.cli.command import call


def test_doctor_ends_with_a_verdict_and_calls_no_optional_part_missing(capfd):
    lines = call(capfd, "doctor").out.splitlines()
    size, speed = r"\S+ up to \d+x\d+ at 2x in one piece, .*", r"about \S+ FPS at 1280x768, .*"
    assert re.fullmatch(rf"this machine: {size}; {speed}; engines: (yes|no), .+", lines[-1])
    missing = {line.split()[1] for line in lines if line.startswith("missing")}
    assert missing <= {"torch", "weights"}
    findings = json.loads(call(capfd, "doctor", "--json").out)
    assert findings[-1]["name"] == "verdict"
    assert {"disk", "encoders"} <= {finding["name"] for finding in findings}


@pytest.mark.parametrize(("memory", "largest"), [(2**30, 640), (2**33, 2048)])
def test_more_memory_holds_larger_frames(monkeypatch, memory, largest):
    monkeypatch.setattr(device_memory, "free_memory", lambda on: memory)
    monkeypatch.setattr(verdict, "multiplied_flop_per_second", lambda on, dtype: 1e12)
    said = verdict.verdict(None)
    assert int(re.search(r"up to (\d+)x\d+", said)[1]) >= largest
    # 1e12 operations a second, by what a pixel costs.
    per_frame = verdict.PACES["cpu"].flop_per_pixel * 1280 * 768
    assert f"about {1e12 / per_frame:.2g} FPS" in said


def test_engines_that_cannot_run_are_told_with_the_reason():
    assert verdict.verdict(None).partition("engines: ")[2].startswith("no, no GPU")
    assert "engines: no" in verdict.verdict(Device("H100", "1.0", "13.0"))
