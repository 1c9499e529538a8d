"""The first hour of someone with a folder of clips, typed line by line. `make first-hour`: minutes, no GPU.

Steps build on those before them; screenshots are in build/first_hour, to be looked at.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.clips import probe
from tests.first_hour.conftest import FRAMES
from tests.first_hour.newcomer import ROOT, named_command, newcomer
from tests.first_hour.pages import AROUND
from tests.page_commands import page_programs
from tests.quality.browser import chromium, screenshot

pytestmark = pytest.mark.slow

NANO = "--preset nano"
NANO_SERVER = "FLASHVSR_PRESET=nano FLASHVSR_BACKEND=torch"


@pytest.fixture(scope="module")
def user(tmp_path_factory, clips):
    made = newcomer(tmp_path_factory.mktemp("hour"), sys.executable)
    shutil.copytree(clips, made.home, dirs_exist_ok=True)
    return made


def test_the_wheel_installs_without_extras(user, wheel):
    # Which torch is the machine's matter: the one that the tests run with is at hand here.
    user.type(f"pip install --quiet '{wheel}' --constraint {ROOT / 'constraints.txt'}")
    assert user.type("flashvsr-trt --version").out.strip().endswith("0.1.0")
    assert "No broken requirements" in user.type("pip check").out


def test_the_doctor_looks_at_the_machine(user):
    found = user.type("flashvsr-trt doctor")
    assert "torch" in found.out
    assert found.out.strip().splitlines()[-1].startswith("this machine:")
    json.loads(user.type("flashvsr-trt doctor --json").out)


def test_nano_upscales_a_clip(user):
    said = user.type(f"flashvsr-trt run clips/a.mp4 -o a_2x.mp4 {NANO}")
    assert "a_2x.mp4" in said.err
    made = probe(user.home / "a_2x.mp4")
    assert (made.frames, made.size) == (FRAMES, (256, 256))


def test_a_split_video_has_the_clip_before_left_and_after_right(user, pictures):
    said = user.type(f"flashvsr-trt run clips/a.mp4 -o split/ {NANO} --side-by-side --crf 4")
    video = user.home / "split/a_2x_side_by_side.mp4"
    assert "split/a_2x_side_by_side.mp4" in said.err
    assert (probe(video).frames, probe(video).size) == (FRAMES, (256, 256))
    split, after, given = map(pictures_of, (video, user.home / "a_2x.mp4", user.home / "clips/a.mp4"))
    Image.fromarray(split[-1]).save(pictures / "side_by_side.png")
    larger = np.stack(
        [Image.fromarray(frame).resize((256, 256), Image.Resampling.BICUBIC) for frame in given]
    )
    left, right = np.s_[:, :, 8:120], np.s_[:, :, 136:248]
    assert difference(split[left], larger[left]) < 0.75 * difference(split[left], after[left])
    assert difference(split[right], after[right]) < 0.75 * difference(split[right], larger[right])
    assert split[:, :, 127:129].mean() > 200  # the line


def test_the_page_of_a_comparison_is_looked_at(user, pictures):
    said = user.type("flashvsr-trt compare sharp.mp4 a_2x.mp4 --html page.html")
    assert "PSNR" in said.out
    shown = screenshot(user.home / "page.html")
    shutil.copy(shown, pictures / "compare.png")
    assert varied(shown) > 10


def test_half_a_second_is_looked_at_before_and_after(user, pictures):
    user.type(f"flashvsr-trt run clips/a.mp4 {NANO} --preview 0.2 -o preview")
    made = user.home / "preview"
    assert {"before.png", "after.png", "index.html"} <= {path.name for path in made.iterdir()}
    shown = screenshot(made / "index.html")
    shutil.copy(shown, pictures / "preview.png")
    assert varied(shown) > 10


def test_a_clip_is_compared_with_its_larger_self(user, pictures):
    said = user.type("flashvsr-trt compare clips/a.mp4 a_2x.mp4 --html sizes.html")
    assert "bicubic" in said.err
    shutil.copy(screenshot(user.home / "sizes.html"), pictures / "compare_sizes.png")


def test_a_folder_of_five_has_a_broken_one(user):
    said = user.type(f"flashvsr-trt run clips/ -o out/ {NANO}", code=1)
    assert "broken.mp4" in said.err.strip().splitlines()[-1] + said.err.strip().splitlines()[-2]
    assert sorted(path.name for path in (user.home / "out").iterdir()) == [
        f"{name}_2x.mp4" for name in "abcd"
    ]
    (user.home / "out/c_2x.mp4").unlink()
    kept = (user.home / "out/a_2x.mp4").stat().st_mtime_ns
    (user.home / "clips/broken.mp4").unlink()
    user.type(f"flashvsr-trt run clips/ -o out/ {NANO} --resume")
    assert (user.home / "out/c_2x.mp4").is_file()
    assert (user.home / "out/a_2x.mp4").stat().st_mtime_ns == kept


def test_the_program_of_the_readme_runs(user):
    (program,) = (text for page, text in page_programs() if page == "README.md")
    small = program.replace("sparse-2.0", "nano").replace("height=360, width=640", "height=64, width=64")
    (user.home / "program.py").write_text(AROUND + small)
    shutil.copy(user.home / "clips/b.mp4", user.home / "input.mp4")
    user.type("python program.py")
    assert probe(user.home / "output.mp4").frames == 5


def test_engines_are_built_with_what_the_error_names(user):
    build = f"flashvsr-trt engines build {NANO} --size 256x256 --arch 8.9"
    command = named_command(user.type(build, code=1).err)
    assert ".whl[rtx]" in command
    user.type(f"{command} --quiet --constraint {ROOT / 'constraints.txt'}")
    user.type(build)
    assert "nano" in user.type("flashvsr-trt engines list").out
    user.type("flashvsr-trt engines verify")


def test_the_example_upscales_files(user):
    shutil.copytree(ROOT / "examples", user.home / "examples")
    user.type("python examples/upscale_file.py clips/b.mp4 clips/c.mp4 -o . --preset nano")
    assert [probe(user.home / f"{name}_2x.mp4").frames for name in "bc"] == [5, 5]


def test_a_browser_sees_what_the_server_sends_back(user, wheel, pictures):
    user.type(f"pip install --quiet '{wheel}[server]' --constraint {ROOT / 'constraints.txt'}")
    server = user.start(f"env {NANO_SERVER} uvicorn --app-dir examples server:app --port 0")
    try:
        told = (re.search(r"Uvicorn running on (http://[0-9.]+:[0-9]+)", line) for line in server.stderr)
        address = next(found[1] for found in told if found)
        shoot(address, "of 384x256", pictures / "server.png")
        assert varied(pictures / "server.png") > 10
    finally:
        server.terminate()
        server.communicate(timeout=60)


def shoot(address: str, text: str, picture: Path) -> None:
    """A picture of a page, once it shows a text."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 900, "height": 500})
        page.goto(address)
        page.get_by_text(text).wait_for(timeout=300_000)
        page.screenshot(path=picture)
        browser.close()


def pictures_of(video: Path) -> np.ndarray:
    """uint8 RGB [n, H, W, 3]."""
    with av.open(str(video)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def difference(one: np.ndarray, other: np.ndarray) -> float:
    """The mean of what levels differ by."""
    return float(np.abs(one.astype(np.int16) - other).mean())


def varied(picture: Path) -> float:
    """How far a picture's levels are spread: a blank page has 0."""
    return float(np.asarray(Image.open(picture).convert("L")).std())
