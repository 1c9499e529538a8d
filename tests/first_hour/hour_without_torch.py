"""The first hour on the newest Python here, with what installs there: torch may have no build for it.

A bundle that a machine with torch exported runs in ONNX Runtime, and TensorRT-RTX makes engines of it.
"""

import json
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.clips import probe
from tests.first_hour.conftest import FRAMES
from tests.first_hour.hour import varied
from tests.first_hour.newcomer import ROOT, Newcomer, newcomer
from tests.quality.browser import screenshot

pytestmark = pytest.mark.slow

STREAM = "--preset nano-full-attn --weights random:1"
"""Weights of a file are known by its place and time, which differ between machines; a seed does not."""


@pytest.fixture(scope="module")
def user(tmp_path_factory, clips) -> Newcomer:
    newest = subprocess.run([ROOT / ".ci/newest_python"], capture_output=True, text=True, check=False)
    if newest.returncode:
        pytest.skip("no Python 3.12 or newer here")
    made = newcomer(tmp_path_factory.mktemp("newest"), newest.stdout.strip())
    shutil.copytree(clips, made.home, dirs_exist_ok=True)
    return made


def test_the_wheel_installs_without_torch(user, wheel):
    needed = subprocess.run(
        [sys.executable, ROOT / ".ci/without_torch.py"], capture_output=True, text=True, check=True
    )
    (user.home / "requirements.txt").write_text(needed.stdout)
    user.type("pip install --quiet -r requirements.txt")
    user.type(f"pip install --quiet --no-deps '{wheel}'")
    assert user.type("flashvsr-trt --version").out.strip().endswith("0.1.0")


def test_the_doctor_names_what_is_missing(user):
    found = {part["name"]: part for part in parts(json.loads(user.type("flashvsr-trt doctor --json").out))}
    assert found["torch"]["fix"] == "pip install torch"


def parts(found: list | dict) -> list[dict]:
    """The parts that `doctor --json` tells of."""
    return found if isinstance(found, list) else found["parts"]


def test_another_machine_exports_a_bundle(user, wheel):
    """With torch and the same wheel, as a bundle is of its exporter's sources; its cache is brought here."""
    package = user.home / "elsewhere"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(package)
    variables = {"PYTHONPATH": str(package), "FLASHVSR_CACHE": str(user.home / "brought")}
    elsewhere = Newcomer(user.home, user.environment, variables)
    run = f"-m flashvsr_trt run clips/b.mp4 -o with_torch.mp4 {STREAM} --backend onnxruntime"
    elsewhere.type(f"{sys.executable} {run}")


def test_the_bundle_upscales_a_clip(user):
    here = Newcomer(user.home, user.environment, {"FLASHVSR_CACHE": str(user.home / "brought")})
    said = here.type(f"flashvsr-trt run clips/a.mp4 -o a_2x.mp4 {STREAM} --backend onnxruntime")
    assert "a_2x.mp4" in said.err
    made = probe(user.home / "a_2x.mp4")
    assert (made.frames, made.size) == (FRAMES, (256, 256))


def test_the_page_of_a_comparison_is_looked_at(user, pictures):
    user.type("flashvsr-trt compare sharp.mp4 a_2x.mp4 --html page.html")
    shown = screenshot(user.home / "page.html")
    shutil.copy(shown, pictures / "compare_without_torch.png")
    assert varied(shown) > 10


def test_engines_are_made_of_the_bundle(user):
    here = Newcomer(user.home, user.environment, {"FLASHVSR_CACHE": str(user.home / "brought")})
    (manifest,) = (user.home / "brought/bundles").glob("*/bundle.json")
    build = f"flashvsr-trt engines build --bundle {manifest.parent} --flavour rtx --arch 8.9"
    assert "rtx" in here.type(build, code=1).err
    here.type(
        "pip install --quiet 'tensorrt-rtx>=1.7,<2' onnx onnxscript onnx-ir ml-dtypes protobuf cuda-python"
    )
    here.type(build)
    assert "nano" in here.type("flashvsr-trt engines list").out
