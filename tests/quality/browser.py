"""Headless Chromium, driven by its command line alone."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

VIEW = (1000, 1600)
"""Width and height of the window: all of a small page."""


def chromium() -> str:
    """The browser named by CHROME, or found by one of its names; skips the test where there is none."""
    found = os.environ.get("CHROME") or next(filter(None, map(shutil.which, NAMES)), None)
    if not found:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed, and CHROME is not set")
    return found


def dumped_page(page: Path) -> str:
    """The document after its scripts ran, as HTML."""
    return _run(page, "--dump-dom", "--virtual-time-budget=5000")


def screenshot(page: Path) -> Path:
    """A PNG file of the page, VIEW pixels large."""
    image = page.with_suffix(".png")
    _run(page, f"--screenshot={image}", "--virtual-time-budget=5000")
    return image


def _run(page: Path, *options: str) -> str:
    command = [
        chromium(),
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--force-device-scale-factor=1",
        "--force-color-profile=srgb",
        f"--window-size={VIEW[0]},{VIEW[1]}",
        f"--user-data-dir={page.parent / 'profile'}",
        *options,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
