"""What several rooms' tests take: exported bundles where there is torch, filesystems, and Ctrl-C."""

import gc
import signal
from importlib.util import find_spec
from itertools import zip_longest

import pytest
from hypothesis import HealthCheck, settings

from flashvsr_trt.cli.main import GARBAGE
from tests.file_tree import FILESYSTEMS

if find_spec("torch"):  # `make test-newest` runs what needs none, in an environment without it
    from tests.compiled_kernels import compiled_kernels  # noqa: F401
    from tests.exported import (  # noqa: F401
        bfloat16_bundle,
        bfloat16_low_latency_bundle,
        bundles_folder,
        dense_bundle,
        session_folder,
        sparse_bundle,
    )

# How long an example takes is the machine's: a loaded one fails no test by it.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

SHARED = "session_folder"
"""Fixture of tests that take what one worker makes while others wait: exported bundles, built engines."""

INTERPRETED = "run_kernel"
"""Fixture of tests that take long: interpreted kernels."""


def pytest_configure() -> None:
    """Signals are tested also where a shell ignores SIGINT in the background, or nohup SIGHUP.

    Looks for garbage are as rare as in a command.
    """
    gc.set_threshold(*GARBAGE)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_finish() -> None:
    """Modules and tests are no garbage."""
    gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: at the end, the last of them would keep one worker busy alone.

    Of these, files that share bundles take turns with the others: two of them would wait for one export.
    """
    files = list(dict.fromkeys(item.path for item in items))
    sharing = {item.path for item in items if SHARED in item.fixturenames}
    slow = {
        item.path for item in items if item.get_closest_marker("slow") or INTERPRETED in item.fixturenames
    }
    turns = zip_longest(
        (file for file in files if file in sharing), (file for file in files if file in slow - sharing)
    )
    order = [file for turn in turns for file in turn if file]
    place = {file: number for number, file in enumerate(dict.fromkeys([*order, *files]))}
    items.sort(key=lambda item: place[item.path])


@pytest.fixture(params=FILESYSTEMS)
def filesystem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The calls that a filesystem has for renames; files must behave alike with all."""
    FILESYSTEMS[request.param](monkeypatch)
    return request.param
