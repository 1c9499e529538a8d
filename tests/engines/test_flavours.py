"""Which flavour a request means on which machine."""

import pytest

from flashvsr_trt.engines import flavours
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.flavours import RTX, TENSORRT, choose_target
from flashvsr_trt.errors import DeviceError, EngineError, MissingDependencyError, UsageError
from tests.exported import ignore

ADA = Device("GeForce RTX 4090", "8.9", "13.0")
HOPPER = Device("H100", "9.0", "13.0")


@pytest.fixture
def installed(monkeypatch):
    """Sets the versions that are installed: rtx=..., tensorrt=..."""

    def install(**versions):
        monkeypatch.setattr(flavours, "installed_version", lambda flavour: versions.get(flavour.name))

    return install


@pytest.mark.parametrize(
    ("versions", "capability", "device", "expected"),
    [
        ({"rtx": "1.7.1", "tensorrt": "11.0"}, None, ADA, "rtx"),
        ({"tensorrt": "10.15.1"}, None, ADA, "tensorrt"),
        ({"rtx": "1.7.1", "tensorrt": "11.0"}, None, HOPPER, "tensorrt"),
        ({"rtx": "1.7.1"}, None, None, "rtx"),
        ({"rtx": "1.7.1", "tensorrt": "11.0"}, "12.0", HOPPER, "rtx"),
    ],
)
def test_auto_takes_what_is_installed_and_fits(installed, versions, capability, device, expected):
    installed(**versions)
    target = choose_target("auto", capability, device, ignore)
    assert target.flavour.name == expected
    assert target.version == versions[expected]


def test_a_target_knows_the_device_only_if_it_is_for_it(installed):
    installed(rtx="1.7.1")
    assert choose_target("rtx", None, ADA, ignore).device == ADA.name
    assert choose_target("rtx", "12.0", ADA, ignore).device is None
    assert choose_target("rtx", "12.0", ADA, ignore).architecture == "sm_120"


def test_without_a_gpu_the_choice_is_announced(installed):
    installed(rtx="1.7.1")
    notices = []
    assert choose_target("rtx", None, None, notices.append).capability == "8.9"
    assert "--arch" in notices[0]
    assert choose_target("rtx", "8.6", None, pytest.fail).capability == "8.6"


@pytest.mark.parametrize("capability", ["9.0", "10.0"])
def test_an_unsupported_architecture_names_the_flavour_that_has_it(installed, capability):
    installed(rtx="1.7.1")
    with pytest.raises(EngineError, match=f"capability {capability}.*use --flavour tensorrt"):
        choose_target("rtx", capability, None, ignore)


def test_an_architecture_of_no_flavour_is_refused(installed):
    installed(rtx="1.7.1")
    with pytest.raises(EngineError, match="choose another --arch"):
        choose_target("auto", "3.0", None, ignore)


@pytest.mark.parametrize("device", [None, HOPPER])
def test_tensorrt_builds_only_on_its_device(installed, device):
    installed(tensorrt="11.0")
    with pytest.raises(DeviceError, match="builds on a GPU of the capability that it builds for"):
        choose_target("tensorrt", "8.9", device, ignore)


def test_a_missing_flavour_names_its_extra(installed):
    installed()
    with pytest.raises(MissingDependencyError, match=r"\[rtx\]"):
        choose_target("rtx", "8.9", None, ignore)
    with pytest.raises(MissingDependencyError, match=r"\[tensorrt\]"):
        choose_target("tensorrt", None, HOPPER, ignore)


@pytest.mark.parametrize(
    ("flavour", "version"),
    [(RTX, "1.6.0"), (RTX, "2.0"), (TENSORRT, "10.13.3"), (TENSORRT, "10.14.1"), (TENSORRT, "12.0")],
)
def test_versions_of_another_api_are_refused(installed, flavour, version):
    installed(**{flavour.name: version})
    with pytest.raises(MissingDependencyError, match=f"{version} is not supported"):
        choose_target(flavour.name, "9.0" if flavour is TENSORRT else "8.9", HOPPER, ignore)


def test_an_unknown_flavour_is_named():
    with pytest.raises(UsageError, match="auto, rtx, tensorrt"):
        choose_target("openvino", None, None, ignore)
