"""What `doctor` says of the flavours."""

import pytest

from flashvsr_trt import doctor
from flashvsr_trt.engines import flavours
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.flavours import RTX, TENSORRT


@pytest.mark.parametrize(
    ("flavour", "version", "device", "present", "detail"),
    [
        (RTX, "1.7.1", None, True, "runs nothing: no GPU"),
        (RTX, "1.7.1", Device("RTX 5090", "12.0", "13.0"), True, "runs on RTX 5090 (12.0, CUDA 13.0)"),
        (RTX, "1.7.1", Device("H100", "9.0", "13.0"), True, "does not run on H100 (9.0)"),
        (TENSORRT, "11.0", Device("H100", "9.0", "13.0"), True, "builds for 9.0 here; runs on H100"),
        (TENSORRT, "11.0", None, False, "builds for nothing here"),
        (RTX, None, None, False, "rtx engines need TensorRT-RTX; it is for compute capability 7.5, 8.0"),
        (TENSORRT, "10.14.1", None, False, "TensorRT 10.14.1 is not supported"),
    ],
)
def test_a_flavour_is_found_with_what_it_can_do(flavour, version, device, present, detail, monkeypatch):
    monkeypatch.setattr(flavours, "installed_version", lambda _: version)
    monkeypatch.setattr(doctor, "current_device", lambda: device)
    finding = next(f for f in doctor.examine() if f.name == f"{flavour.name} engines")
    assert finding.present == present
    assert detail in finding.detail
    assert bool(finding.fix) == (version is None or version == "10.14.1")
