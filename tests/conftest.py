"""What several rooms' tests take: exported bundles where there is torch, filesystems, and Ctrl-C."""

import signal
from importlib.util import find_spec

import pytest

from tests.file_tree import FILESYSTEMS

if find_spec("torch"):  # `make test-newest` runs what needs none, in an environment without it
    from tests.compiled_kernels import compiled_kernels  # noqa: F401
    from tests.exported import bundles_folder, dense_bundle, session_folder, sparse_bundle  # noqa: F401


def pytest_configure() -> None:
    """Ctrl-C is tested also where a shell ignores SIGINT for what it starts in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(params=FILESYSTEMS)
def filesystem(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The calls that a filesystem has for renames; files must behave alike with all."""
    FILESYSTEMS[request.param](monkeypatch)
    return request.param
