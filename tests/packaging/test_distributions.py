"""The source archive and the wheel: built as pip builds them, whole, and fit for an index."""

import email
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from dataclasses import dataclass
from email.message import Message
from pathlib import Path, PurePosixPath

import pytest

import flashvsr_trt
from tests.test_rooms import MODULES, ROOMS

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

BUILT_FROM = (*ROOMS, "docs", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md")
BUILT_FROM += ("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "NOTICE")

BUILD = """
import sys, tarfile
from pathlib import Path
from setuptools import build_meta

out = Path(sys.argv[1])
archive = out / build_meta.build_sdist(str(out))
with tarfile.open(archive) as opened:
    opened.extractall(out / "unpacked", filter="data")
import os
os.chdir(next((out / "unpacked").iterdir()))
build_meta.build_wheel(str(out))
"""
"""As a front end does: the wheel out of the unpacked source archive."""


@dataclass(frozen=True)
class Built:
    """Names in the two archives, the source's without its folder, and what the wheel says of itself."""

    sdist: Path
    wheel: Path
    sources: frozenset[str]
    files: frozenset[str]
    metadata: Message


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    tree, out = folder / "tree", folder / "out"
    tree.mkdir(), out.mkdir()
    for name in BUILT_FROM:
        place = ROOT / name
        if place.is_dir():
            shutil.copytree(place, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(place, tree / name)
    (tree / "model/weights/nano.safetensors").write_bytes(b"packing 15 MB twice takes seconds")
    (tree / "tests").mkdir()
    (tree / "tests/test_of_ours.py").touch()
    ran = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:setuptools", "-c", BUILD, str(out)],
        cwd=tree, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    with tarfile.open(sdist) as opened:
        sources = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in opened.getnames()}
    with zipfile.ZipFile(wheel) as opened:
        files = set(opened.namelist())
        (name,) = (name for name in files if name.endswith(".dist-info/METADATA"))
        metadata = email.message_from_bytes(opened.read(name))
    return Built(sdist, wheel, frozenset(sources), frozenset(files), metadata)


def test_the_wheel_has_every_module_and_what_they_read(built):
    modules = {f"flashvsr_trt/{path.relative_to(ROOT).as_posix()}" for path in MODULES.values()}
    modules = {name.replace("flashvsr_trt/flashvsr_trt/", "flashvsr_trt/") for name in modules}
    data = {
        f"flashvsr_trt/{path.relative_to(ROOT).as_posix()}".replace(
            "flashvsr_trt/flashvsr_trt/", "flashvsr_trt/"
        )
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.suffix in (".json", ".safetensors", ".html", ".toml", ".typed") or path.name == "nano.md"
    }
    assert modules | data <= built.files


def test_the_wheel_has_nothing_else(built):
    tops = {name.split("/")[0] for name in built.files}
    assert tops == {"flashvsr_trt", f"flashvsr_trt-{PROJECT['version']}.dist-info"}
    assert [name for name in built.files if "test" in PurePosixPath(name).name] == []


def test_the_source_archive_has_the_pages_and_no_tests(built):
    pages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").iterdir()}
    assert (
        pages | {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "NOTICE", "setup.py"}
        <= built.sources
    )
    assert [name for name in built.sources if name.startswith(("tests", "bench"))] == []


def test_an_index_takes_them(built):
    pytest.importorskip("twine")
    command = [sys.executable, "-m", "twine", "check", "--strict", str(built.sdist), str(built.wheel)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_no_link_of_the_page_is_relative(built):
    page = str(built.metadata.get_payload())
    links = re.findall(r"\]\(([^)\s]+)\)", page)
    assert len(links) > 20
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert f"{PROJECT['urls']['Repository']}/raw/main/docs/side_by_side.png" in links


@pytest.mark.parametrize("field", ["Author", "Keywords", "License-Expression", "Summary"])
def test_fields_of_an_index_are_there(built, field):
    assert built.metadata[field]


def test_urls_and_classifiers_are_there(built):
    urls = dict(url.split(", ") for url in built.metadata.get_all("Project-URL"))
    assert {"Repository", "Documentation", "Changelog", "Issues"} <= set(urls)
    classifiers = built.metadata.get_all("Classifier")
    assert not any(
        name.startswith("License ::") for name in classifiers
    )  # PEP 639 has the expression instead
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {oldest}" in classifiers


def test_versions_agree():
    newest = re.search(
        r"^## (\d+\.\d+\.\d+) - ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert newest
    assert newest[1] == PROJECT["version"] == flashvsr_trt.__version__
