"""Engines really built with TensorRT-RTX on this CPU, and everything that a build refuses."""

import shutil
import signal
import threading
from contextlib import nullcontext
from dataclasses import replace

import onnx
import pytest
from onnx import TensorProto, helper

from flashvsr_trt.engines import build as building
from flashvsr_trt.engines.build import build_engines, find_or_build_engines
from flashvsr_trt.engines.engine_file import BuildSetting, build_engine_file
from flashvsr_trt.engines.flavours import RTX, TENSORRT, Target
from flashvsr_trt.engines.layers import write_layers
from flashvsr_trt.engines.manifest import KERNELS, EngineFile, open_engines
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.engines.progress_monitor import Cancellation, cancel_on_interrupt
from flashvsr_trt.engines.tensorrt_api import load_module, logger_of
from flashvsr_trt.engines.timing_cache import keep_timings
from flashvsr_trt.engines.verify import verify_engines
from flashvsr_trt.errors import DeviceError, EngineError, UsageError
from flashvsr_trt.files.folder import sha256_of
from flashvsr_trt.notices import watched_phases
from flashvsr_trt.plugins.op_kernels import OperatorKernels
from tests.engines.conftest import FLOAT16, KINDS, SMALLEST, SPARSE, SPARSE_4X
from tests.exported import ignore


@pytest.mark.parametrize("kind", KINDS)
def test_every_graph_is_built_and_verifies(kind, engines_of):
    engines = engines_of(kind)
    assert set(engines.manifest.plans) == set(engines.bundle.graphs)
    for name, file in engines.manifest.engines.items():
        content = engines.read_engine(name)
        assert len(content) == file.size_bytes > 10_000
    checks = {check.name: check for check in verify_engines(engines, device=None)}
    # What a CPU cannot tell is said: ONNX Runtime has no bfloat16 there.
    unknown = {"deserialise"} | ({"sessions"} if engines.manifest.key.precision == "bf16" else set())
    assert {name for name, check in checks.items() if check.passed is None} == unknown, checks
    assert not any(check.passed is False for check in checks.values()), checks
    assert "no GPU" in checks["deserialise"].detail


def test_a_manifest_says_what_was_built(engines_of, rtx_target):
    engines = engines_of(SPARSE)
    manifest, layers = engines.manifest, engines.bundle.stream.preset.network.dit.layers
    assert (manifest.key.flavour, manifest.key.version, manifest.key.capability) == (
        "rtx",
        rtx_target.version,
        "8.9",
    )
    assert len(manifest.engines) == 2 + 2 * (layers + 1)
    assert set(manifest.key.kernels) == {"select_blocks", "block_sparse_attention_bf16_d32"}
    assert manifest.build_seconds > 0
    assert manifest.peak_bytes > 0
    assert open_engines(engines.folder) == engines


def test_the_kernels_lie_beside_the_engines(engines_of):
    engines = engines_of(SPARSE_4X)
    kernels = OperatorKernels("sm_89", "bf16", 32).read(engines.kernels_folder)
    for step in engines.manifest.plans["dit"].kernels:
        (artifact,) = kernels[step.operator]
        ports = {a.name for a in artifact.arguments if a.role in ("input", "output")}
        assert ports == {*step.inputs, *step.outputs}


def test_a_dense_preset_needs_no_kernels(engines_of):
    engines = engines_of(SMALLEST)
    assert engines.manifest.key.kernels == {}
    assert not engines.kernels_folder.exists()
    assert set(engines.manifest.engines) == {"encode", "dit", "decode"}


def test_weights_are_the_bundles_own_file(engines_of, bundle_of):
    weights = bundle_of(SMALLEST).weights.file.name
    assert (engines_of(SMALLEST).folder / weights).samefile(bundle_of(SMALLEST).folder / weights)


def test_a_second_build_finds_the_first(engines_of, bundle_of, engines_root, rtx_target, monkeypatch):
    first = engines_of(SMALLEST)
    monkeypatch.setattr(building, "build_engine_file", lambda *_: pytest.fail("built again"))
    found = find_or_build_engines(engines_root, bundle_of(SMALLEST), rtx_target, notify=pytest.fail)
    assert found == first


def test_truncated_engines_are_announced_and_built_again(engines_of, bundle_of, tmp_path, rtx_target):
    folder = tmp_path / engines_of(SMALLEST).folder.name
    shutil.copytree(engines_of(SMALLEST).folder, folder)
    path = folder / "dit.engine"
    path.write_bytes(path.read_bytes()[:-1])
    notices = []
    made = find_or_build_engines(tmp_path, bundle_of(SMALLEST), rtx_target, notify=notices.append)
    assert "truncated" in notices[0]
    assert made.folder == folder
    assert made.manifest.engines.keys() == engines_of(SMALLEST).manifest.engines.keys()
    assert made.read_engine("dit")


def watched(report):
    """Phases go to `report(done, total, detail)`."""
    return watched_phases(lambda name, unit: nullcontext(report))


def test_a_build_tells_where_it_is(bundle_of, tmp_path, rtx_target):
    seen = []
    with watched(lambda done, total=None, detail="": seen.append((done, total, detail))):
        build_engines(tmp_path, bundle_of(SMALLEST), rtx_target, notify=ignore)
    starts = [detail for _, _, detail in seen if ":" not in detail]
    assert starts == ["encode, 1 of 3", "dit, 2 of 3", "decode, 3 of 3", ""]
    done, total, _ = zip(*seen, strict=True)
    assert sorted(done) == list(done)
    assert set(total) == {done[-1]}
    phases = [detail.rpartition(" ")[2].split("/") for _, _, detail in seen if ":" in detail]
    assert phases
    assert all(0 <= int(step) <= int(steps) for step, steps in phases)


def test_ctrl_c_stops_a_build_and_leaves_nothing(bundle_of, tmp_path, rtx_target):
    sent = []

    def interrupt(done, total=None, detail=""):
        # One signal, to this thread: one of many may reach another thread late, when the build is over.
        if detail.startswith("dit, 2 of 3: ") and not sent:
            sent.append(detail)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), watched(interrupt):
        build_engines(tmp_path, bundle_of(SMALLEST), rtx_target, notify=ignore)
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGINT) is before


def test_a_report_that_fails_stops_the_build_and_is_raised(bundle_of, tmp_path, rtx_target):
    def report(done, total=None, detail=""):
        if ":" in detail:
            raise LookupError("nobody is listening")

    with pytest.raises(LookupError, match="nobody is listening"), watched(report):
        build_engines(tmp_path, bundle_of(SMALLEST), rtx_target, notify=ignore)
    assert list(tmp_path.iterdir()) == []


def test_other_threads_cannot_take_ctrl_c():
    seen = []

    def run():
        with cancel_on_interrupt() as cancellation:
            seen.append((cancellation.requested, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGINT))]


def one_node(path, operator, domain="", **attributes):
    """A model y = operator(x) on four floats, and its bindings."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "y")]
    node = helper.make_node(operator, ["x"], ["y"], "the node", domain=domain, **attributes)
    graph = helper.make_graph([node], "one", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 22)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return {name: ("float32", (4,)) for name in ("x", "y")}


def build_one(tmp_path, target, operator="Relu", change=lambda bindings: bindings, **attributes):
    path = tmp_path / "one.onnx"
    bindings = change(one_node(path, operator, **attributes))
    engine = tmp_path / "one.engine"
    return build_engine_file(path, engine, bindings, frozenset(), BuildSetting(target), Cancellation())


def test_a_custom_node_never_reaches_the_parser(tmp_path, rtx_target):
    with pytest.raises(
        EngineError, match=r"one\.onnx holds 1 custom nodes, the first is the node \(flashvsr::"
    ):
        build_one(tmp_path, rtx_target, "select_blocks", domain="flashvsr")


def test_a_parser_failure_names_the_node_in_tensorrts_words(tmp_path, rtx_target):
    with pytest.raises(EngineError, match=r"cannot parse one\.onnx: node the node \(Det\)"):
        build_one(tmp_path, rtx_target, "Det")
    assert not (tmp_path / "one.engine").exists()


def test_bindings_that_differ_are_named(tmp_path, rtx_target):
    def other(bindings):
        return bindings | {"y": ("bfloat16", (4,))}

    with pytest.raises(EngineError, match=r"y as \('float32', \(4,\)\), and its plan binds \('bfloat16'"):
        build_one(tmp_path, rtx_target, change=other)


def test_a_cancelled_build_writes_nothing(tmp_path, rtx_target):
    path, cancellation = tmp_path / "one.onnx", Cancellation()
    bindings = one_node(path, "Relu")
    cancellation.requested = True
    with pytest.raises(KeyboardInterrupt):
        build_engine_file(
            path, tmp_path / "one.engine", bindings, frozenset(), BuildSetting(rtx_target), cancellation
        )
    assert [file.name for file in tmp_path.iterdir()] == ["one.onnx"]


def test_a_graph_that_fails_is_kept_for_debugging(bundle_of, tmp_path, rtx_target, monkeypatch):
    def fail(*_):
        raise EngineError("TensorRT-RTX cannot build encode.segment.onnx: for a reason")

    monkeypatch.setattr(building, "build_engine_file", fail)
    root, kept = tmp_path / "root", tmp_path / "failed"
    with pytest.raises(EngineError, match="for a reason; --debug keeps the graph"):
        build_engines(root, bundle_of(SMALLEST), rtx_target, notify=ignore)
    with pytest.raises(EngineError, match=r"the graph is kept as .*failed"):
        build_engines(root, bundle_of(SMALLEST), rtx_target, notify=ignore, debug_folder=kept)
    assert onnx.load(kept / "encode.segment.onnx", load_external_data=False).graph.node
    assert list(root.iterdir()) == []


def test_stripping_weights_without_a_gpu_says_what_it_needs(bundle_of, tmp_path, rtx_target, monkeypatch):
    monkeypatch.setattr(building, "current_device", lambda: None)
    with pytest.raises(DeviceError, match="only on a machine with a GPU"):
        build_engines(tmp_path, bundle_of(SMALLEST), rtx_target, BuildOptions(strip_weights=True), ignore)


def test_a_changed_bundle_is_not_built(bundle_of, tmp_path, rtx_target):
    folder = shutil.copytree(bundle_of(SMALLEST).folder, tmp_path / "bundle")
    path = folder / "decode.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(Exception, match=r"decode\.onnx was changed"):
        build_engines(tmp_path / "engines", replace(bundle_of(SMALLEST), folder=folder), rtx_target)


@pytest.mark.parametrize("options", [{"optimization_level": 6}, {"workspace_mb": 0}])
def test_options_that_no_builder_takes_are_refused(options):
    with pytest.raises(UsageError, match=r"optimization level 6|workspace of 0"):
        BuildOptions(**options)


def test_bf16_bundles_have_no_transposed_convolutions_and_others_one_a_frame(bundle_of):
    def operators(kind):
        model = onnx.load(bundle_of(kind).graph_path("decode"), load_external_data=False)
        return [node.op_type for node in model.graph.node]

    assert "ConvTranspose" not in operators(SPARSE)
    assert operators(FLOAT16).count("ConvTranspose") == 14


@pytest.fixture
def tensorrt_build(monkeypatch):
    """Where TensorRT would register plugins, build, and keep timings: what it is asked for, in order."""
    asked = []

    def register(kernels, directory):
        asked.append(("register", {name: [a.name for a in found] for name, found in kernels.items()}))

    def build(model_path, engine_path, bindings, channels_last, setting, cancellation, report):
        model = onnx.load(model_path, load_external_data=False)
        asked.append((engine_path.name, [n.op_type for n in model.graph.node if n.domain], setting))
        assert not model.functions
        engine_path.write_bytes(b"engine")
        write_layers(engine_path.parent, engine_path.stem, ())
        return EngineFile(engine_path.name, sha256_of(engine_path), 6, 0.0)

    monkeypatch.setattr(building, "register_plugins", register)
    monkeypatch.setattr(building, "build_engine_file", build)
    return asked


@pytest.fixture(scope="module")
def compiled(compiled_kernels, tmp_path_factory):
    """What a build before left of the kernels that the session compiled; `engines_of` compiles its own."""
    folder = tmp_path_factory.mktemp("kernels")
    shutil.copytree(compiled_kernels, folder / "sm_90-bf16-d32")
    return folder


@pytest.fixture
def hopper_root(compiled, tmp_path):
    """A folder for engines, where the kernels lie that a build before compiled."""
    (tmp_path / KERNELS).symlink_to(compiled)
    return tmp_path


HOPPER = Target(TENSORRT, "11.0.0", "9.0", "NVIDIA H100 80GB HBM3", "13.0")


def test_tensorrt_keeps_custom_nodes_for_plugins_that_are_registered_first(
    bundle_of, hopper_root, tensorrt_build
):
    bundle = bundle_of(SPARSE_4X)
    engines = build_engines(hopper_root, bundle, HOPPER, notify=ignore)
    (what, kernels), *built = tensorrt_build
    assert what == "register"
    assert kernels == {
        "select_blocks": ["select_blocks"],
        "block_sparse_attention": ["block_sparse_attention_bf16_d32"],
    }
    layers = bundle.stream.preset.network.dit.layers
    assert [(name, len(nodes)) for name, nodes, _ in built] == [
        ("encode.engine", 0),
        ("dit.engine", 2 * layers),
        ("decode.engine", 0),
    ]
    setting = built[0][2]
    assert setting.plugins == ("flashvsr::select_blocks", "flashvsr::block_sparse_attention")
    assert setting.timing_cache.name == "tensorrt-11.0.0-NVIDIA-H100-80GB-HBM3.cache"
    assert engines.manifest.plans["dit"].kernels == ()
    assert engines.manifest.key.kernels
    assert next(c for c in verify_engines(engines, None) if c.name == "bindings").passed


def test_tensorrt_is_offered_only_what_it_can_launch_unless_asked(
    bundle_of, hopper_root, tensorrt_build, monkeypatch
):
    bundle = bundle_of(SPARSE_4X)
    monkeypatch.setattr(building, "PLAIN_SHARED_LIMIT", 1024)
    notices = []
    engines = build_engines(hopper_root, bundle, HOPPER, notify=notices.append)
    assert all(what != "register" and nodes == [] for what, nodes, *_ in tensorrt_build)
    assert engines.manifest.plans["dit"].kernels
    assert "no kernel of block_sparse_attention for sm_90 takes 1 KB of shared memory or less" in notices[-1]
    tensorrt_build.clear()
    build_engines(hopper_root, bundle, HOPPER, BuildOptions(large_shared_memory=True), ignore)
    what, kernels = tensorrt_build[0]
    assert what == "register"
    assert kernels["block_sparse_attention"] == ["block_sparse_attention_bf16_d32"]


@pytest.mark.parametrize("cut", [True, False])
def test_large_shared_memory_is_refused_where_kernels_are_launched_between_engines(bundle_of, tmp_path, cut):
    target = HOPPER if cut else Target(RTX, "1.7.1", "8.9")
    options = BuildOptions(cut=cut, large_shared_memory=True)
    with pytest.raises(UsageError, match="--large-shared-memory is for kernels inside engines"):
        build_engines(tmp_path, bundle_of(SPARSE_4X), target, options, ignore)


def test_tensorrt_cuts_when_asked_to(bundle_of, hopper_root, tensorrt_build):
    bundle = bundle_of(SPARSE_4X)
    engines = build_engines(hopper_root, bundle, HOPPER, BuildOptions(cut=True), ignore)
    assert all(nodes == [] for _, nodes, _ in tensorrt_build)
    assert engines.manifest.plans["dit"].kernels


def test_a_dense_preset_registers_no_plugins(bundle_of, tmp_path, tensorrt_build):
    build_engines(tmp_path, bundle_of(SMALLEST), HOPPER, notify=ignore)
    assert [name for name, *_ in tensorrt_build] == ["encode.engine", "dit.engine", "decode.engine"]


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_timings_are_kept_from_build_to_build(tmp_path, rtx_target):
    trt = load_module(RTX)
    config = trt.Builder(logger_of(trt)).create_builder_config()
    path = tmp_path / "timings" / "one.cache"
    with keep_timings(config, path):
        pass
    kept = path.read_bytes()
    assert kept
    with keep_timings(config, path):
        pass
    assert path.read_bytes() == kept
    assert [file.name for file in path.parent.iterdir()] == ["one.cache"]


@pytest.mark.filterwarnings("ignore:.*Timing cache operations are no-ops:DeprecationWarning")
def test_timings_that_cannot_be_kept_are_said_and_end_no_build(tmp_path, rtx_target, caplog):
    (tmp_path / "file").write_text("in the way")
    trt = load_module(RTX)
    config = trt.Builder(logger_of(trt)).create_builder_config()
    with keep_timings(config, tmp_path / "file" / "one.cache"):
        pass
    assert "what the builder measured is not kept" in caplog.text
