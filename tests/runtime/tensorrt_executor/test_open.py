"""Finding engines for a run: what is refused, what is built and said, and the commands that errors name."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.engines.cache import engine_key
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.flavours import RTX, TENSORRT, Target
from flashvsr_trt.engines.manifest import EngineManifest, EngineSet
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.engines.plan import EngineStep, PlanTensor, SegmentPlan
from flashvsr_trt.engines.tensorrt_api import logger_of
from flashvsr_trt.errors import DeviceError, EngineError, UsageError
from flashvsr_trt.memory import MemoryEstimate
from flashvsr_trt.runtime.backends import open_executor
from flashvsr_trt.runtime.request import EngineOptions, ExecutorRequest, TileOptions
from flashvsr_trt.runtime.tensorrt import engine as tensorrt_engine
from flashvsr_trt.runtime.tensorrt import named_engines
from flashvsr_trt.runtime.tensorrt import open as tensorrt_open
from flashvsr_trt.runtime.tensorrt.cuda_device import device_index
from flashvsr_trt.runtime.tensorrt.device_memory import estimate_before_building
from flashvsr_trt.runtime.tensorrt.named_engines import check_engines
from flashvsr_trt.runtime.tensorrt.open import build_command, check_stream, open_engines_on
from tests.runtime.device_double import DeviceDouble

STREAM = StreamConfig(find_preset("nano"), Geometry(64, 96, 2), find_schedule("low-latency"))
GPU = Device("a GPU", "8.9", "13.0")


def engine_set(bundle, folder, flavour=RTX, version="1.7.1", capability="8.9", device="a GPU"):
    """A manifest of one engine; its file is read only when it is loaded."""
    plan = SegmentPlan(
        "decode",
        (EngineStep("decode", ("latent",), ("frames",)),),
        {name: PlanTensor(name, "uint8", (1,), None, 0, 1) for name in ("latent", "frames")},
        ("latent",),
        ("frames",),
    )
    manifest = EngineManifest(
        key=engine_key(bundle, Target(flavour, version, capability, device), BuildOptions()),
        device=device,
        driver="13.0",
        plans={"encode": replace(plan, graph="encode"), "dit": replace(plan, graph="dit"), "decode": plan},
        engines={"decode": SimpleNamespace(name="decode.engine", size_bytes=10, sha256="0")},
        segments={},
        layers={},
        kernel_manifest=None,
        build_seconds=1.0,
        peak_bytes=1,
    )
    return EngineSet(folder, manifest, bundle)


OTHERS = {
    "another capability": ({"capability": "8.6"}, "for compute capability 8.6, and a GPU has 8.9"),
    "another GPU": ({"flavour": TENSORRT, "device": "A100"}, "engines for A100, and this GPU is a GPU"),
    "another version": ({"version": "1.6.0"}, "TensorRT-RTX 1.6.0, and 1.7.1 is installed"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_engines_of_another_gpu_or_version_are_refused(name, dense_bundle, tmp_path, monkeypatch):
    changes, message = OTHERS[name]
    monkeypatch.setattr(named_engines, "installed_version", lambda flavour: "1.7.1")
    check_engines(engine_set(dense_bundle, tmp_path), GPU)
    with pytest.raises(EngineError, match=message) as error:
        check_engines(engine_set(dense_bundle, tmp_path, **changes), GPU)
    assert "build them again" in str(error.value)


def test_portable_engines_run_on_any_gpu_of_their_capability(dense_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(named_engines, "installed_version", lambda flavour: "1.7.1")
    check_engines(engine_set(dense_bundle, tmp_path, device=None), replace(GPU, name="another GPU"))


def test_engines_of_another_stream_name_both(dense_bundle, tmp_path):
    engines = engine_set(dense_bundle, tmp_path)
    check_stream(engines, dense_bundle.stream)
    with pytest.raises(EngineError, match=r"nano-full-attn at 256x128 .* and not of nano at 192x128"):
        check_stream(engines, STREAM)


def test_engines_that_cannot_fit_are_refused_before_they_are_loaded(dense_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(named_engines, "installed_version", lambda flavour: "1.7.1")
    monkeypatch.setattr(tensorrt_open, "TensorRTRunner", lambda engines: pytest.fail("they were loaded"))
    device = DeviceDouble(total=2**20, name="a GPU")
    with pytest.raises(DeviceError, match="GiB are missing"):
        open_engines_on(device, engine_set(dense_bundle, tmp_path))


def test_without_a_gpu_the_other_backends_are_named(monkeypatch):
    monkeypatch.setattr(tensorrt_open, "current_device", lambda: None)
    with pytest.raises(DeviceError, match=r"there is none here.*--backend onnxruntime or torch"):
        open_executor("tensorrt", ExecutorRequest(STREAM, "random"), lambda line: None)


@pytest.mark.parametrize("device", ["cpu", "tpu", "cuda:x"])
def test_another_device_than_a_gpu_is_refused(device):
    with pytest.raises(UsageError, match=f"not on --device {device}"):
        open_executor("tensorrt", ExecutorRequest(STREAM, "random", device=device), lambda line: None)


@pytest.mark.parametrize(("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:0", 0), ("cuda:3", 3)])
def test_gpus_are_named_as_in_torch(name, index):
    assert device_index(name) == index


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a GPU and TensorRT-RTX, and an empty cache."""
    monkeypatch.setenv("FLASHVSR_CACHE", str(tmp_path))
    monkeypatch.setattr(tensorrt_open, "current_device", lambda: GPU)
    monkeypatch.setattr(tensorrt_open, "choose_target", lambda *a: Target(RTX, "1.7.1", "8.9", "a GPU"))
    monkeypatch.setattr(tensorrt_open, "CudaDevice", lambda index: DeviceDouble(name="a GPU"))
    monkeypatch.setattr(tensorrt_open, "open_engines_on", lambda device, engines, *options: engines)
    return monkeypatch


@pytest.mark.parametrize("by_vram", [True, False])
def test_engines_that_are_built_are_of_tiles_where_those_of_whole_frames_would_not_fit(machine, by_vram):
    stream = replace(STREAM, geometry=Geometry(250, 300, 2))
    needed = estimate_before_building(stream, None, 0, "bfloat16").total
    device = DeviceDouble(total=2**34 if by_vram else needed, name="a GPU")
    machine.setattr(tensorrt_open, "CudaDevice", lambda index: device)
    asked, said = [], []
    machine.setattr(tensorrt_open, "_engines", lambda request, notify: asked.append(request.stream))
    machine.setattr(tensorrt_open, "in_tiles", lambda executor, whole, plan, vram, notify: plan)
    tiles = TileOptions(vram=needed if by_vram else None)
    plan = open_executor("tensorrt", ExecutorRequest(stream, "random:3", tiles=tiles), said.append)
    assert asked == [plan.tile_stream(stream)]
    assert len(plan.tiles) > 1
    assert f"{len(plan.tiles)} tiles of " in said[0]


def test_too_little_vram_for_any_engines_names_the_least(machine):
    request = ExecutorRequest(STREAM, "random:3", tiles=TileOptions(vram=2**20))
    with pytest.raises(UsageError, match="the least that this stream needs is"):
        open_executor("tensorrt", request, lambda line: None)


def test_engines_of_whole_frames_above_vram_say_what_they_need(machine):
    executor = SimpleNamespace(needed=MemoryEstimate(2**30, 2**30, 2**30))
    machine.setattr(tensorrt_open, "_engines", lambda request, notify: None)
    machine.setattr(tensorrt_open, "open_engines_on", lambda *options: executor)
    request = ExecutorRequest(STREAM, "random:3", tiles=TileOptions("off", 2**31))
    with pytest.raises(UsageError, match=r"need 3\.00G"):
        open_executor("tensorrt", request, lambda line: None)


def test_no_build_names_the_command_that_builds(machine):
    stream = replace(STREAM, color_fix="none", upsampler="torch")
    request = ExecutorRequest(stream, "random:3", engines=EngineOptions(build=False))
    with pytest.raises(EngineError) as error:
        open_executor("tensorrt", request, lambda line: None)
    assert str(error.value).endswith(
        "build them with: flashvsr-trt engines build --preset nano --input-size 96x64 --scale 2 "
        "--schedule low-latency --fit pad --precision bf16 --flavour rtx --upsampler torch --color-fix none "
        "--weights random:3"
    )
    assert "TensorRT-RTX engines of nano at 192x128 (2x, low-latency) for a GPU" in str(error.value)


def test_the_command_is_one_that_the_command_line_takes(capsys):
    from flashvsr_trt.cli.engines import build

    words = build_command(ExecutorRequest(STREAM, "a folder"), "bf16", "rtx").split()
    assert words[:3] == ["flashvsr-trt", "engines", "build"]
    known = {option for parameter in build.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= known
    assert "'a folder'" in build_command(ExecutorRequest(STREAM, "a folder"), "bf16", "rtx")


def test_missing_engines_are_announced_and_built(machine, dense_bundle, tmp_path):
    made = engine_set(dense_bundle, tmp_path)
    asked = []

    def build(root, bundle, target, **options):
        asked.append((root, bundle, target.flavour))
        return made

    machine.setattr(tensorrt_open, "bundle_for", lambda *arguments, **options: dense_bundle)
    machine.setattr(tensorrt_open, "find_or_build_engines", build)
    notices = []
    request = ExecutorRequest(dense_bundle.stream, "random:1")
    assert open_executor("tensorrt", request, notices.append) is made
    assert asked == [(tmp_path / "engines", dense_bundle, RTX)]
    assert len(notices) == 1
    assert notices[0].startswith("building TensorRT-RTX engines of nano-full-attn at 256x128")


def test_a_dtype_that_engines_have_not_is_named(machine):
    request = ExecutorRequest(STREAM, "random", dtype="float8")
    with pytest.raises(UsageError, match="dtype 'float8'"):
        open_executor("tensorrt", request, lambda line: None)


class Context:
    """An execution context that records."""

    def __init__(self, fails=False):
        self.calls, self.fails = [], fails

    def set_device_memory(self, address, size):
        self.calls.append(("memory", address, size))

    def set_tensor_address(self, name, address):
        self.calls.append(("bind", name, address))
        return address % 256 == 0

    def execute_async_v3(self, stream):
        self.calls.append(("run", stream))
        return not self.fails


class Module:
    """The parts of TensorRT's Python module that loading and running use."""

    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user managed")

    class ILogger:
        INTERNAL_ERROR, ERROR = "internal error", "error"

    def __init__(self, loads=True, fails=False):
        self.context = Context(fails)
        self.engine = SimpleNamespace(
            device_memory_size_v2=512,
            num_io_tensors=2,
            get_tensor_name=("latent", "frames").__getitem__,
            create_execution_context=lambda strategy: self.context if strategy == "user managed" else None,
        )
        self.loads = loads

    def Runtime(self, logger):  # noqa: N802 - TensorRT's name
        return SimpleNamespace(deserialize_cuda_engine=self.deserialize)

    def deserialize(self, content):
        if self.loads:
            return self.engine
        logger_of(self).log(self.ILogger.ERROR, "Serialized  Engine Version\nMismatch")
        return None


def runner_on(module, bundle, folder, monkeypatch):
    monkeypatch.setattr(tensorrt_engine, "load_module", lambda flavour: module)
    monkeypatch.setattr(EngineSet, "read_engine", lambda engines, name: b"an engine")
    return tensorrt_engine.TensorRTRunner(engine_set(bundle, folder))


def test_an_engine_is_bound_and_run_with_the_memory_it_is_given(dense_bundle, tmp_path, monkeypatch):
    module = Module()
    engine = runner_on(module, dense_bundle, tmp_path, monkeypatch).load("decode", 7)
    assert engine.memory_bytes == 512
    context = engine.new_context(4096, None)
    context.bind({"latent": 256, "frames": 512})
    context.enqueue(7)
    bound = [("bind", "latent", 256), ("bind", "frames", 512)]
    assert module.context.calls == [("memory", 4096, 512), *bound, ("run", 7)]
    assert context.can_capture(7)


def test_an_engine_that_cannot_be_loaded_gives_its_own_reason(dense_bundle, tmp_path, monkeypatch):
    runner = runner_on(Module(loads=False), dense_bundle, tmp_path, monkeypatch)
    with pytest.raises(EngineError, match=r"decode\.engine: Serialized Engine Version Mismatch; build them"):
        runner.load("decode", 7)


def test_other_bindings_than_the_plans_are_named(dense_bundle, tmp_path, monkeypatch):
    engine = runner_on(Module(), dense_bundle, tmp_path, monkeypatch).load("decode", 7)
    with pytest.raises(EngineError, match="decode binds condition, frames otherwise than its plan"):
        engine.new_context(0, None).bind({"latent": 0, "condition": 0})


def test_a_run_that_fails_is_an_error_that_names_the_engine(dense_bundle, tmp_path, monkeypatch):
    engine = runner_on(Module(fails=True), dense_bundle, tmp_path, monkeypatch).load("decode", 7)
    with pytest.raises(EngineError, match="decode failed: it gave no reason"):
        engine.new_context(0, None).enqueue(7)


def test_an_address_that_is_refused_is_an_error(dense_bundle, tmp_path, monkeypatch):
    engine = runner_on(Module(), dense_bundle, tmp_path, monkeypatch).load("decode", 7)
    with pytest.raises(EngineError, match="decode refuses the address 0x3 of frames: it gave no reason"):
        engine.new_context(0, None).bind({"latent": 256, "frames": 3})


def test_a_context_is_not_told_addresses_that_it_has(dense_bundle, tmp_path, monkeypatch):
    module = Module()
    context = runner_on(module, dense_bundle, tmp_path, monkeypatch).load("decode", 7).new_context(0, None)
    for _ in range(2):
        context.bind({"latent": 256, "frames": 512})
    assert [call[0] for call in module.context.calls].count("bind") == 2


def test_a_set_that_goes_while_sets_are_put_in_order_is_the_oldest(dense_bundle, tmp_path):
    gone = engine_set(dense_bundle, tmp_path)
    assert not (tmp_path / "engines.json").exists()
    assert named_engines._order(gone)[2] == 0
