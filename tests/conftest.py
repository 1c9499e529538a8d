"""What several rooms' tests take: exported bundles where there is torch, filesystems, and Ctrl-C."""

import signal
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, settings

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

LONG = {"session_folder", "run_kernel"}
"""Fixtures of tests that take long: exported bundles and built engines, and interpreted kernels."""


def pytest_configure() -> None:
    """Signals are tested also where a shell ignores SIGINT in the background, or nohup SIGHUP."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: at the end, the last of them would keep one worker busy alone."""
    long = {item.path for item in items if item.get_closest_marker("slow") or LONG & set(item.fixturenames)}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(params=FILESYSTEMS)
def filesystem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The calls that a filesystem has for renames; files must behave alike with all."""
    FILESYSTEMS[request.param](monkeypatch)
    return request.param
