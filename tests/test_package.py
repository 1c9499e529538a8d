"""The rooms at a checkout's top are modules of the package; an installed package has none but its own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def search_path(folder: Path) -> list[str]:
    """`flashvsr_trt.__path__` where the package was imported from `folder`, without the site's packages."""
    code = "import flashvsr_trt; print(*flashvsr_trt.__path__, sep='\\n')"
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    ran = subprocess.run(
        [sys.executable, "-S", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return ran.stdout.splitlines()


def copy_package(folder: Path) -> None:
    (folder / "flashvsr_trt").mkdir()
    shutil.copy(ROOT / "flashvsr_trt" / "__init__.py", folder / "flashvsr_trt")


def test_a_checkout_finds_its_rooms():
    assert search_path(ROOT) == [str(ROOT / "flashvsr_trt"), str(ROOT)]


@pytest.mark.parametrize("beside", [None, b'[project]\nname = "another"\n', b"\xff\xfe"])
def test_an_installed_package_takes_nothing_that_lies_beside_it(tmp_path, beside):
    copy_package(tmp_path)
    if beside is not None:
        (tmp_path / "pyproject.toml").write_bytes(beside)
    assert search_path(tmp_path) == [str(tmp_path / "flashvsr_trt")]


def test_types_are_declared():
    assert (ROOT / "flashvsr_trt" / "py.typed").is_file()
