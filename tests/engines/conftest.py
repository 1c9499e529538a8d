"""Nano bundles of every kind, exported once, and engines really built of them."""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from flashvsr_trt.bundle import Bundle, read_bundle
from flashvsr_trt.engines.build import find_or_build_engines
from flashvsr_trt.engines.flavours import RTX, Target, installed_version
from flashvsr_trt.engines.manifest import EngineSet, open_engines
from flashvsr_trt.extras import install_command
from tests.cli.command import Outcome, spawn
from tests.exported import ignore

FLOAT16 = "dense-official-2x"
"""Of `first_build`, with nano's own weights, whose decoder must be scaled to fit float16."""

FIRST_BUILD = (
    *("engines", "build", "--flavour", "rtx", "--precision", "fp16"),
    *("--preset", "nano-full-attn", "--schedule", "official", "--size", "128x128", "--scale", "2"),
)
"""The command that makes its engines, and before them its bundle."""

SPARSE, SPARSE_4X = "sparse-official-2x", "sparse-low-latency-4x"
"""The session's `bfloat16_bundle` and `bfloat16_low_latency_bundle`."""

SMALLEST = "dense-low-latency-4x"
"""The session's `dense_bundle`, in fp32."""

KINDS = (SPARSE, SPARSE_4X, FLOAT16, SMALLEST)
"""All bundles that engines are built of; names say what they are."""


@pytest.fixture(scope="session")
def rtx_target() -> Target:
    """What this CPU builds for, the same on every machine."""
    version = installed_version(RTX)
    if version is None:
        pytest.skip(f"tensorrt-rtx is not installed: {install_command('rtx')}")
    return Target(RTX, version, "8.9")


@pytest.fixture(scope="session")
def first_cache(session_folder: Path) -> Path:
    """The cache that `first_build` found empty, and filled."""
    return session_folder / "first_build" / "cache"


@pytest.fixture(scope="session")
def first_build(first_cache: Path, rtx_target: Target) -> Outcome:
    """How the first worker's `FIRST_BUILD` ended; the others wait, and read it."""
    said = first_cache.with_name("said.json")
    said.parent.mkdir(exist_ok=True)
    with FileLock(said.with_suffix(".lock")), pytest.MonkeyPatch.context() as environment:
        if not said.exists():
            environment.setenv("FLASHVSR_CACHE", str(first_cache))
            process = spawn(*FIRST_BUILD)
            out, err = process.communicate(timeout=600)
            said.write_text(json.dumps([process.returncode, out, err]))
    return Outcome(*json.loads(said.read_text()))


@pytest.fixture(scope="session")
def float16_bundle(first_build: Outcome, first_cache: Path) -> Bundle:
    assert first_build.code == 0, first_build.err
    (manifest,) = first_cache.glob("bundles/*/bundle.json")
    return read_bundle(manifest.parent)


@pytest.fixture(scope="session")
def bundle_of(request: pytest.FixtureRequest):
    """A kind's bundle, by its name."""
    session = {
        SPARSE: "bfloat16_bundle",
        SPARSE_4X: "bfloat16_low_latency_bundle",
        SMALLEST: "dense_bundle",
        FLOAT16: "float16_bundle",
    }

    def bundle(kind: str) -> Bundle:
        return request.getfixturevalue(session[kind])

    return bundle


@pytest.fixture(scope="session")
def engines_root(session_folder: Path) -> Path:
    """Where the session's engines are, with the kernels that they share."""
    return session_folder / "engines"


@pytest.fixture(scope="session")
def engines_of(bundle_of, engines_root: Path, rtx_target: Target, request: pytest.FixtureRequest):
    """A kind's engines, by its name."""
    made: dict[str, EngineSet] = {}

    def engines(kind: str) -> EngineSet:
        if kind == FLOAT16:
            return open_engines(Path(request.getfixturevalue("first_build").out.strip()))
        if kind not in made:
            made[kind] = find_or_build_engines(engines_root, bundle_of(kind), rtx_target, notify=ignore)
        return made[kind]

    return engines
