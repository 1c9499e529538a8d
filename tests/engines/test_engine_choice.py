"""Which engines a run takes: by any options, or those that `--engines` names; and why others are refused."""

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from flashvsr_trt.config.presets import find_schedule
from flashvsr_trt.engines.cache import engine_folder, engine_key, find_engines_of_any_options
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.manifest import MANIFEST, open_engines
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.errors import DeviceError, EngineError, UsageError
from flashvsr_trt.files.manifest_reader import dump_manifest
from flashvsr_trt.runtime import backends
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.request import EngineOptions, ExecutorRequest
from flashvsr_trt.runtime.tensorrt import open as tensorrt_open
from tests.engines.conftest import SMALLEST
from tests.runtime.device_double import DeviceDouble

DEFAULT, CUT = BuildOptions(), BuildOptions(cut=True)
LEVEL = BuildOptions(optimization_level=1, workspace_mb=64)
STRIPPED = BuildOptions(strip_weights=True)
BUILT = Path("built")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """The cache's folder of engines, empty."""
    monkeypatch.setenv("FLASHVSR_CACHE", str(tmp_path))
    return tmp_path / "engines"


@pytest.fixture
def put(engines_of, root, rtx_target):
    """`put(options, age)` makes a set of the smallest bundle, built with these options `age` seconds ago."""
    built = engines_of(SMALLEST)

    def make(options=DEFAULT, age=0, into=None, **changes):
        of_key = {name: value for name, value in changes.items() if name in vars(built.manifest.key)}
        key = replace(engine_key(built.bundle, rtx_target, options), **of_key)
        folder = engine_folder(into or root, built.bundle, key)
        shutil.copytree(built.folder, folder, copy_function=os.link)
        content = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).unlink()
        facts = {name: value for name, value in changes.items() if name in content}
        content |= {"key": asdict(key)} | facts
        (folder / MANIFEST).write_text(dump_manifest(content))
        os.utime(folder / MANIFEST, ns=(0, 10**18 - age * 10**9))
        return folder

    return make


@pytest.fixture
def machine(monkeypatch, engines_of, rtx_target):
    """A GPU of the engines' capability and their bundle; the executor is the set that was chosen."""
    bundle = engines_of(SMALLEST).bundle
    gpu = Device("a GPU", rtx_target.capability, "13.0")
    monkeypatch.setattr(tensorrt_open, "current_device", lambda: gpu)
    monkeypatch.setattr(tensorrt_open, "choose_target", lambda *_: replace(rtx_target, device="a GPU"))
    monkeypatch.setattr(tensorrt_open, "CudaDevice", lambda index: DeviceDouble(name="a GPU"))
    monkeypatch.setattr(tensorrt_open, "open_engines_on", lambda device, engines, *options: engines)
    monkeypatch.setattr(tensorrt_open, "bundle_for", lambda *_: bundle)
    monkeypatch.setattr(tensorrt_open, "find_bundle", lambda *_: bundle)
    built = replace(engines_of(SMALLEST), folder=BUILT)
    monkeypatch.setattr(tensorrt_open, "find_or_build_engines", lambda *_, **options: built)
    return monkeypatch


@pytest.fixture
def request_of(engines_of):
    """A request for the stream of the smallest bundle."""

    def request(weights="random:1", dtype="float32", stream=None, **engines):
        own = engines_of(SMALLEST).bundle.stream
        return ExecutorRequest(stream or own, weights, dtype=dtype, engines=EngineOptions(**engines))

    return request


def opened(request):
    notices = []
    return open_executor("tensorrt", request, notices.append), notices


@pytest.mark.parametrize("build", [True, False])
@pytest.mark.parametrize("options", [CUT, STRIPPED, LEVEL])
def test_engines_of_other_options_are_taken_and_said(machine, put, request_of, options, build):
    folder = put(options)
    engines, notices = opened(request_of(build=build))
    assert engines.folder == folder
    said = (
        f"engines {folder.name}, built with {' '.join(options.words)}: none are there of the default options"
    )
    assert notices == [said]


def test_the_default_options_come_first_then_the_newest(put, engines_of, root, rtx_target):
    old, new = put(CUT, age=20), put(LEVEL, age=10)
    bundle = engines_of(SMALLEST).bundle
    key = engine_key(bundle, rtx_target, DEFAULT)
    assert [found.folder for found in find_engines_of_any_options(root, bundle, key)] == [new, old]
    own = put(DEFAULT, age=30)
    assert [found.folder for found in find_engines_of_any_options(root, bundle, key)] == [own, new, old]


def test_engines_of_another_version_or_lowering_are_not_taken(machine, put, request_of):
    put(CUT, version="1.6.0")
    put(LEVEL, lowering="other")
    assert opened(request_of())[0].folder == BUILT


def test_damaged_ones_are_left_aside_and_said(machine, put, request_of):
    damaged, whole = put(CUT, age=1), put(LEVEL, age=2)
    path = damaged / "dit.engine"
    path.unlink()
    engines, notices = opened(request_of())
    assert engines.folder == whole
    assert notices[0].startswith("left aside: ")
    assert "lacks dit.engine" in notices[0]


def test_a_folder_of_one_set_is_taken_as_it_is(machine, put, request_of, tmp_path):
    folder = put(LEVEL, into=tmp_path / "elsewhere")
    engines, notices = opened(request_of(None, "auto", folder=str(folder)))
    assert engines.folder == folder
    (said,) = notices
    assert "built with --optimization-level 1 --workspace 64, of the weights random" in said


def test_of_a_folder_of_sets_the_best_that_fits_is_taken(machine, put, request_of, tmp_path):
    into = tmp_path / "elsewhere"
    put(DEFAULT, into=into, capability="12.0")
    put(CUT, into=into, age=5)
    newest = put(STRIPPED, into=into)
    assert opened(request_of(folder=str(into)))[0].folder == newest
    default = put(DEFAULT, into=into, age=9)
    assert opened(request_of(folder=str(into)))[0].folder == default


def test_a_stale_set_that_is_named_runs_and_is_called_so(machine, put, request_of):
    folder = put(lowering="other")
    assert "though graphs are lowered differently now" in opened(request_of(folder=str(folder)))[1][0]


REFUSED = {
    "version": ({"version": "1.6.0"}, {}, "holds engines of TensorRT-RTX 1.6.0, and"),
    "capability": ({"capability": "12.0"}, {}, "for compute capability 12.0, and a GPU has 8.9"),
    "weights": ({}, {"weights": "random:2"}, "the weights .*, and not of random:2"),
    "dtype": ({}, {"dtype": "bfloat16"}, "in float32, and not in bfloat16"),
}


def test_another_flavour_than_the_named_engines_is_refused(machine, put, request_of):
    with pytest.raises(EngineError, match="holds rtx engines, and not tensorrt"):
        opened(request_of(folder=str(put()), flavour="tensorrt"))


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("of_sets", [False, True])
def test_what_does_not_fit_is_refused_with_why(machine, put, request_of, root, name, of_sets):
    built, asked, message = REFUSED[name]
    folder = put(**built)
    with pytest.raises(EngineError, match=message):
        opened(request_of(folder=str(root if of_sets else folder), **asked))


def test_engines_of_another_stream_are_refused(machine, put, request_of, engines_of):
    own = engines_of(SMALLEST).bundle.stream
    folder = put()
    for stream in (
        replace(own, geometry=replace(own.geometry, width=32)),
        replace(own, schedule=find_schedule("official")),
    ):
        with pytest.raises(EngineError, match=r"of nano-full-attn at .*, and not of nano-full-attn"):
            opened(request_of(folder=str(folder), stream=stream))


def test_a_folder_that_is_not_there_or_empty_is_refused(machine, request_of, tmp_path):
    with pytest.raises(UsageError, match="there is no such folder"):
        opened(request_of(folder=str(tmp_path / "absent")))
    with pytest.raises(EngineError, match="there are no engines in it"):
        opened(request_of(folder=str(tmp_path)))


def test_engines_that_are_named_choose_their_backend(machine, put, request_of):
    notices = []
    folder = put()
    request = request_of(folder=str(folder))
    assert backends.choose_backend(request, notices.append) == "tensorrt"
    assert notices == ["backend tensorrt: --engines names what it runs"]
    with pytest.raises(UsageError, match="--engines belong to --backend tensorrt"):
        open_executor("torch", request, notices.append)
    machine.setattr(tensorrt_open, "current_device", lambda: None)
    with pytest.raises(DeviceError, match="engines run on an NVIDIA GPU"):
        opened(request)


def test_a_flavour_that_is_not_known_is_a_damaged_manifest(put):
    with pytest.raises(EngineError, match="flavour 'other', not of rtx"):
        open_engines(put(flavour="other"))
