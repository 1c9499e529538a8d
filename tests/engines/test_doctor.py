"""What `doctor` says of the flavours."""

import importlib.util
import json

import pytest

from flashvsr_trt.cli import doctor
from flashvsr_trt.engines import flavours, readiness
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.flavours import RTX, TENSORRT
from flashvsr_trt.extras import install_command
from tests.cli.command import call

SPARSE = ("8.0", "8.6", "8.9", "12.0")
H100 = Device("H100", "9.0", "13.0")
RTX_5090 = Device("RTX 5090", "12.0", "13.0")


@pytest.fixture
def machine(monkeypatch):
    """Sets what is here: `machine(version, device, without=modules)`."""
    find = importlib.util.find_spec

    def set_up(version, device, without=()):
        monkeypatch.setattr(flavours, "installed_version", lambda _: version)
        monkeypatch.setattr(doctor, "current_device", lambda: device)
        monkeypatch.setattr(readiness, "current_device", lambda: device)
        monkeypatch.setattr(readiness, "is_installed", lambda name: name not in without and bool(find(name)))

    return set_up


def finding_of(flavour):
    return next(f for f in doctor.examine() if f.name == f"{flavour.name} engines")


@pytest.mark.parametrize(
    ("flavour", "version", "device", "builds", "sparse", "detail"),
    [
        (RTX, "1.7.1", None, RTX.capabilities, SPARSE, "does not run here: no GPU"),
        (RTX, "1.7.1", RTX_5090, RTX.capabilities, SPARSE, "runs on RTX 5090 (12.0, CUDA 13.0)"),
        (RTX, "1.7.1", H100, RTX.capabilities, SPARSE, "does not run here: H100 has 9.0"),
        (
            TENSORRT,
            "11.0",
            H100,
            ("9.0",),
            ("9.0",),
            "builds for 9.0 here; sparse presets for 9.0; runs on H100",
        ),
        (TENSORRT, "11.0", Device("T4", "7.5", "13.0"), ("7.5",), (), "for none of them; runs on T4"),
        (TENSORRT, "11.0", None, (), (), "builds for nothing here"),
        (RTX, None, None, (), (), "rtx engines need TensorRT-RTX; builds for nothing here"),
        (RTX, None, RTX_5090, (), (), "does not run here: no TensorRT-RTX that fits"),
        (
            TENSORRT,
            "10.14.1",
            None,
            (),
            (),
            "TensorRT 10.14.1 is not supported, but 10.15 and later below 12.0",
        ),
    ],
)
def test_a_flavour_is_found_with_what_it_can_do(machine, flavour, version, device, builds, sparse, detail):
    pytest.importorskip("triton", reason="sparse presets are built with Triton")
    machine(version, device)
    finding = finding_of(flavour)
    assert finding.present == bool(builds)
    assert detail in finding.detail
    ready = finding.more["readiness"]
    assert (ready.builds, ready.builds_sparse) == (builds, sparse)
    assert ready.runs_on == (device.capability if "runs on" in detail else None)
    assert bool(finding.fix) == (ready.version is None)


@pytest.mark.parametrize(
    ("module", "builds", "builds_sparse", "runs"),
    [
        ("onnxscript", False, False, True),
        ("torch", False, False, True),
        ("triton", True, False, True),
        ("cuda.bindings", True, True, False),
    ],
)
def test_a_part_behind_a_flavour_is_missed_with_what_it_is_for(machine, module, builds, builds_sparse, runs):
    machine("1.7.1", None if module == "cuda.bindings" else RTX_5090, without=(module,))
    finding = finding_of(RTX)
    ready = finding.more["readiness"]
    assert (bool(ready.builds), bool(ready.builds_sparse), bool(ready.runs_on)) == (
        builds,
        builds_sparse,
        runs,
    )
    (missing,) = ready.missing
    assert missing.part == module
    assert f"no {module}, which is for {missing.purpose}" in finding.detail
    assert finding.fix == missing.fix == install_command("rtx")
    assert readiness.missing_extra("rtx", "8.9") == "rtx"


def test_a_module_of_another_package_is_named_with_that_package(monkeypatch):
    metadata = doctor.importlib.metadata
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"onnxruntime": ["onnxruntime-gpu"]})

    def version(name):
        if name != "onnxruntime-gpu":
            raise metadata.PackageNotFoundError(name)
        return "1.31.1"

    monkeypatch.setattr(metadata, "version", version)
    found = doctor._optional("onnxruntime", "onnxruntime", "cpu", "runs exported bundles anywhere")
    assert found.detail == "onnxruntime-gpu 1.31.1: runs exported bundles anywhere"


def test_nothing_is_to_be_installed_where_all_is_there(machine):
    machine("11.0", H100)
    assert readiness.missing_extra("auto") == ""
    machine(None, H100)
    assert readiness.missing_extra("auto") == "tensorrt"


def test_json_has_what_can_be_built_and_run(machine, capfd):
    machine("11.0", H100, without=("triton",))
    rows = {row["name"]: row for row in json.loads(call(capfd, "doctor", "--json").out)}
    row = rows["tensorrt engines"]
    assert row["capabilities"] == list(TENSORRT.capabilities)
    assert row["readiness"] == {
        "version": "11.0",
        "builds": ["9.0"],
        "builds_sparse": [],
        "runs_on": "9.0",
        "why_not_run": None,
        "missing": [
            {
                "part": "triton",
                "purpose": "building sparse presets",
                "fix": install_command("tensorrt"),
            }
        ],
    }
