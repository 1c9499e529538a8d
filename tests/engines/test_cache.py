"""What decides whether engines are found, and what is refused."""

import json
import shutil
from dataclasses import asdict, replace

import pytest

from flashvsr_trt.engines import cache
from flashvsr_trt.engines.cache import engine_key, find_engines, list_engines, why_stale
from flashvsr_trt.engines.flavours import RTX, TENSORRT, Target
from flashvsr_trt.engines.manifest import FORMAT_VERSION, MANIFEST, open_engines
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.engines.verify import verify_engines
from flashvsr_trt.errors import EngineError
from flashvsr_trt.files.manifest_reader import dump_manifest
from flashvsr_trt.files.new import whole_folder
from flashvsr_trt.imported_sources import sources_digest, sources_of
from flashvsr_trt.plugins.op_kernels import OperatorKernels
from tests.engines.conftest import SMALLEST, SPARSE, SPARSE_4X


@pytest.fixture
def copied(engines_of, tmp_path):
    """A folder of engines, to be damaged."""
    return shutil.copytree(engines_of(SMALLEST).folder, tmp_path / engines_of(SMALLEST).folder.name)


def edit_manifest(folder, **changes):
    path = folder / MANIFEST
    path.write_text(dump_manifest(json.loads(path.read_text()) | changes))


def test_equal_requests_have_equal_keys(bundle_of, rtx_target, engines_of, engines_root):
    built = engines_of(SPARSE)
    key = engine_key(bundle_of(SPARSE), rtx_target, BuildOptions())
    assert find_engines(engines_root, bundle_of(SPARSE), key) == built


@pytest.mark.parametrize(
    "change",
    ["weights", "size", "precision", "flavour", "version", "capability", "options", "kernels", "lowering"],
)
def test_what_would_make_an_engine_wrong_misses(
    change, bundle_of, engines_of, engines_root, rtx_target, monkeypatch
):
    bundle, target, options = engines_of(SPARSE).bundle, rtx_target, BuildOptions()
    match change:
        case "weights":
            file = replace(bundle.weights.file, sha256="0" * 64)
            bundle = replace(bundle, weights=replace(bundle.weights, file=file))
        case "size":
            # Another size is other graphs.
            bundle = replace(bundle, graphs=bundle_of(SPARSE_4X).graphs)
        case "precision":
            bundle = replace(bundle, precision="fp16")
        case "flavour":
            target = Target(TENSORRT, rtx_target.version, "8.9", "GPU")
        case "version":
            target = replace(target, version="1.7.2")
        case "capability":
            target = replace(target, capability="12.0")
        case "options":
            options = BuildOptions(optimization_level=1)
        case "kernels":
            other = {"select_blocks": "other source"}
            monkeypatch.setattr(OperatorKernels, "hashes", lambda self: other)
        case "lowering":
            monkeypatch.setattr(cache, "lowering_hash", lambda: "other source")
    assert find_engines(engines_root, bundle, engine_key(bundle, target, options)) is None


def test_every_source_of_the_builder_is_in_the_key():
    found = {f"{path.parent.name}/{path.name}" for path in sources_of("flashvsr_trt.engines.build")}
    assert found >= {
        "engines/build.py",
        "engines/engine_file.py",
        "engines/flavours.py",
        "engines/lowering.py",
        "engines/progress_monitor.py",
        "engines/tensorrt_api.py",
        "plugins/tactics.py",
        "plugins/tensorrt_plugin.py",
        "kernels/manifest.py",
        "kernels/ptx.py",
    }
    assert cache.lowering_hash() == sources_digest("flashvsr_trt.engines.build")


def test_only_engines_that_are_not_portable_depend_on_the_model_of_gpu(bundle_of):
    bundle = bundle_of(SMALLEST)
    keys = {
        flavour.name: [
            engine_key(bundle, Target(flavour, "1", "8.9", device), BuildOptions()) for device in ("A", "B")
        ]
        for flavour in (RTX, TENSORRT)
    }
    assert keys["rtx"][0] == keys["rtx"][1]
    assert keys["tensorrt"][0] != keys["tensorrt"][1]


@pytest.mark.parametrize("change", [-1, 1])
def test_an_engine_of_another_length_is_refused(copied, change):
    path = copied / "dit.engine"
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"x")
    with pytest.raises(EngineError, match=r"dit\.engine is truncated or changed"):
        open_engines(copied)


def test_a_changed_byte_is_found_when_the_engine_is_read(copied):
    path = copied / "dit.engine"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    engines = open_engines(copied)
    with pytest.raises(EngineError, match=r"dit\.engine was changed: its sha256"):
        engines.read_engine("dit")
    checks = {check.name: check for check in verify_engines(engines, device=None)}
    assert checks["files"].passed is False


def test_a_missing_engine_is_named(copied):
    (copied / "encode.engine").unlink()
    with pytest.raises(EngineError, match=r"lacks encode\.engine"):
        open_engines(copied)


def test_a_missing_weights_file_is_named(copied, engines_of):
    weights = engines_of(SMALLEST).bundle.weights.file.name
    (copied / weights).unlink()
    with pytest.raises(EngineError, match=f"damaged: .* lacks {weights}"):
        open_engines(copied)


def test_another_format_version_is_refused(copied):
    edit_manifest(copied, format_version=99)
    with pytest.raises(EngineError, match=f"format version 99, and this release reads {FORMAT_VERSION}"):
        open_engines(copied)


@pytest.mark.parametrize("changes", [{"plans": {}}, {"engines": {}}, {"key": {"fast": True}}])
def test_a_damaged_manifest_is_refused(copied, changes):
    edit_manifest(copied, **changes)
    with pytest.raises(EngineError, match="is damaged"):
        open_engines(copied)


@pytest.mark.parametrize("content", ["{", '{"format": "other"}', "[]"])
def test_what_is_no_manifest_is_refused(copied, content):
    (copied / MANIFEST).write_text(content)
    with pytest.raises(EngineError, match=r"is damaged|is not the manifest"):
        open_engines(copied)


def test_engines_under_anothers_name_are_refused(copied, bundle_of, rtx_target):
    bundle = bundle_of(SMALLEST)
    key = engine_key(bundle, rtx_target, BuildOptions())
    edit_manifest(copied, key=asdict(replace(key, release="0.0")))
    with pytest.raises(EngineError, match="another key than its name"):
        find_engines(copied.parent, bundle, key)


def test_a_list_has_an_error_for_what_is_damaged(copied):
    (copied / "dit.engine").unlink()
    (found,) = list_engines(copied.parent)
    assert isinstance(found, EngineError)


def test_engines_appear_only_when_they_are_whole(tmp_path):
    def fail():
        with whole_folder(tmp_path / "root" / "engines", EngineError) as part:
            (part / "half").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "root").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EngineError, match="cannot be written"),
        whole_folder(tmp_path / "file" / "engines", EngineError),
    ):
        pytest.fail("entered")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda patch: patch.setattr(cache, "lowering_hash", lambda: "other"), "lowered differently"),
        (lambda patch: patch.setattr(cache, "__version__", "9.9"), "this is 9.9"),
        (lambda patch: patch.setattr(cache, "installed_version", lambda _: "1.9"), "1.9 is installed"),
        (lambda patch: patch.setattr(cache, "needed_kernels", lambda *_: {"x": "y"}), "source has changed"),
    ],
)
def test_why_engines_are_out_of_use(change, reason, engines_of, monkeypatch):
    assert why_stale(engines_of(SPARSE)) is None
    change(monkeypatch)
    assert reason in why_stale(engines_of(SPARSE))
