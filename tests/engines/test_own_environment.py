"""`make engines FLAVOUR=onnxruntime` beside the CPU's package, which has the same module."""

import pytest

from flashvsr_trt.engines import readiness
from flashvsr_trt.engines.flavours import ONNXRUNTIME
from flashvsr_trt.errors import MissingDependencyError
from flashvsr_trt.extras import install_command


@pytest.fixture
def machine(monkeypatch):
    """Sets what is installed: the module, and the version of the flavour's own distribution."""

    def install(module, version):
        monkeypatch.setattr(readiness, "current_device", lambda: None)
        monkeypatch.setattr(readiness, "is_installed", lambda name: module or name != ONNXRUNTIME.module)
        monkeypatch.setattr(readiness, "installed_version", lambda flavour: version)

        def supported(flavour):
            if version is None:
                raise MissingDependencyError("it is missing: pip install it")
            return version

        monkeypatch.setattr(readiness, "supported_version", supported)

    return install


def test_it_is_refused_in_one_line_beside_the_cpus_package(machine):
    machine(module=True, version=None)
    with pytest.raises(MissingDependencyError) as error:
        readiness.missing_extra("onnxruntime", "9.0")
    assert "cannot stand beside the onnxruntime that is installed here" in str(error.value)
    assert readiness._own_environment(ONNXRUNTIME) in str(error.value)
    assert "\n" not in str(error.value)


def test_doctor_gives_the_command_of_an_environment_and_none_that_spoils_this_one(machine):
    machine(module=True, version=None)
    ready = readiness.readiness(ONNXRUNTIME, None)
    assert "cannot stand beside the onnxruntime that is installed here" in ready.missing[0].purpose
    fixes = {part.fix for part in ready.missing}
    command = readiness.environment_command(".venv-onnxruntime", "onnxruntime")
    assert fixes == {command}


def test_it_is_installed_where_neither_is(machine):
    machine(module=False, version=None)
    assert readiness.missing_extra("onnxruntime", "9.0") == "onnxruntime"


def test_no_package_stands_in_the_way_of_another_flavour(machine):
    machine(module=True, version=None)
    assert readiness.missing_extra("rtx", "8.9") == "rtx"


def test_a_build_asks_for_all_that_is_missing_at_once(machine, monkeypatch):
    machine(module=True, version="1.32.0")
    monkeypatch.setattr(readiness, "is_installed", lambda name: name not in ("onnx", "onnxscript"))
    with pytest.raises(MissingDependencyError) as error:
        readiness.check_can_build("onnxruntime", "9.0")
    assert str(error.value).endswith(f"needs onnx, onnxscript: {install_command('onnxruntime')}")
    machine(module=False, version=None)
    with pytest.raises(MissingDependencyError, match="it is missing: pip install it"):
        readiness.check_can_build("rtx", "8.9")


@pytest.mark.parametrize("exports", [True, False])
def test_a_bundle_that_is_there_needs_no_torch(machine, monkeypatch, exports):
    machine(module=True, version="1.32.0")
    monkeypatch.setattr(readiness, "is_installed", lambda name: name != "torch")
    if exports:
        with pytest.raises(MissingDependencyError, match="needs torch"):
            readiness.check_can_build("onnxruntime", "9.0")
    else:
        readiness.check_can_build("onnxruntime", "9.0", exports=False)
