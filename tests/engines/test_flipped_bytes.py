"""One flipped bit in any file of a bundle, of engines or of kernels is noticed before the file is used."""

import json
import random
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashvsr_trt.bundle import read_bundle
from flashvsr_trt.engines import build as building
from flashvsr_trt.engines.flavours import RTX, Target
from flashvsr_trt.engines.layers import write_layers
from flashvsr_trt.engines.manifest import KERNELS, MANIFEST, EngineFile, open_engines
from flashvsr_trt.engines.verify import verify_engines
from flashvsr_trt.errors import FlashVSRError
from flashvsr_trt.files.folder import describe_file, sha256_of
from flashvsr_trt.files.manifest_reader import dump_manifest
from flashvsr_trt.kernels.manifest import MANIFEST as KERNEL_MANIFEST
from flashvsr_trt.kernels.manifest import check_kernels
from flashvsr_trt.kernels.manifest import read_manifest as read_kernels
from flashvsr_trt.plugins.op_kernels import OperatorKernels
from tests.drawn_manifest import change_one_value
from tests.exported import ignore
from tests.kernels.test_manifest import write_kernels

FLIPS = 60
"""Of a folder; each file has two of its own at least."""


def drawn_flips(folder: Path) -> list[tuple[Path, int, int]]:
    """File, place and bit, the same at every run."""
    drawn = random.Random(0)
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = [paths[number % len(paths)] for number in range(max(FLIPS, 2 * len(paths)))]
    return [(path, drawn.randrange(path.stat().st_size), 1 << drawn.randrange(8)) for path in chosen]


def flip(path: Path, place: int, bit: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ bit]))


def assert_every_flip_is_refused(folder: Path, use) -> None:
    use()
    for path, place, bit in drawn_flips(folder):
        flip(path, place, bit)
        with pytest.raises(FlashVSRError):
            use()
        flip(path, place, bit)
    use()


@pytest.fixture(scope="module")
def bundle_folder(dense_bundle, tmp_path_factory) -> Path:
    return shutil.copytree(dense_bundle.folder, tmp_path_factory.mktemp("flipped") / "bundle")


def build_stand_in(model_path, engine_path, *settings) -> EngineFile:
    """Writes what `build_engine_file` writes, of no engine."""
    content = b"an engine of " + model_path.name.encode()
    engine_path.write_bytes(content)
    write_layers(engine_path.parent, engine_path.stem, ())
    return EngineFile(engine_path.name, sha256_of(engine_path), len(content), 0.0)


@pytest.fixture(scope="module")
def engines_folder(bundle_folder, tmp_path_factory) -> Path:
    """A folder of engines as a build writes it, with a kernel; only the engines' code is none."""
    root = tmp_path_factory.mktemp("flipped-engines")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "build_engine_file", build_stand_in)
        target = Target(RTX, "1.7.1", "8.9")
        folder = building.build_engines(root, read_bundle(bundle_folder), target, notify=ignore).folder
    # Of its own: a link would let a flip into the bundle.
    folder = Path(shutil.copytree(folder, root / "alone"))
    (folder / KERNELS).mkdir()
    write_kernels(folder / KERNELS)
    content = json.loads((folder / MANIFEST).read_text())
    content["key"]["kernels"] = {"scale": "0"}
    content["kernel_manifest"] = vars(describe_file(folder / KERNELS / KERNEL_MANIFEST))
    (folder / MANIFEST).write_text(dump_manifest(content))
    return folder


def test_a_bundle_is_refused(bundle_folder):
    assert_every_flip_is_refused(bundle_folder, lambda: read_bundle(bundle_folder))


def test_engines_are_refused_by_what_a_run_reads(engines_folder):
    def use():
        engines = open_engines(engines_folder)
        engines.check_contents()
        for name in engines.manifest.engines:
            engines.read_engine(name)

    assert_every_flip_is_refused(engines_folder, use)


INTEGRITY = ("files", "bundle", "kernels")


def test_engines_are_refused_by_verify(engines_folder, monkeypatch):
    # That these are the kernels of the presets is another check: the stand-in has one of no preset.
    none = SimpleNamespace(read=lambda folder: {})
    monkeypatch.setattr(OperatorKernels, "of", lambda bundle, architecture: none)

    def use():
        for check in verify_engines(open_engines(engines_folder), None):
            if check.name in INTEGRITY and check.passed is False:
                raise FlashVSRError(check.detail)

    assert_every_flip_is_refused(engines_folder, use)


def test_kernels_are_refused(engines_folder):
    folder = engines_folder / KERNELS
    assert_every_flip_is_refused(folder, lambda: check_kernels(folder))


@pytest.mark.parametrize("which", ["engines", "kernels"])
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_drawn_manifest_raises_nothing_but_our_errors(which, engines_folder, data):
    folder = engines_folder if which == "engines" else engines_folder / KERNELS
    path = folder / (MANIFEST if which == "engines" else KERNEL_MANIFEST)
    original = path.read_text()
    content = json.loads(original)
    change_one_value(data, content)
    path.write_text(dump_manifest(content), encoding="utf-8", errors="replace")
    try:
        open_engines(folder) if which == "engines" else read_kernels(folder)
    except FlashVSRError:
        pass
    finally:
        path.write_text(original)
