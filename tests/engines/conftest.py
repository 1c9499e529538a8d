"""Nano bundles of every kind, exported once, and engines really built of them."""

from pathlib import Path

import pytest

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.engines.build import find_or_build_engines
from flashvsr_trt.engines.flavours import RTX, Target, installed_version
from flashvsr_trt.engines.manifest import EngineSet
from flashvsr_trt.export.export_bundle import export_bundle
from tests.exported import export_once, ignore

FLOAT16 = "dense-official-2x"
"""Exported here with nano's own weights, whose decoder must be scaled to fit float16."""

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
        pytest.skip("tensorrt-rtx is not installed: pip install 'flashvsr-trt[rtx]'")
    return Target(RTX, version, "8.9")


@pytest.fixture(scope="session")
def float16_bundle(bundles_folder: Path) -> Bundle:
    stream = StreamConfig(find_preset("nano-full-attn"), Geometry(64, 64, 2), find_schedule("official"))
    return export_once(export_bundle, stream, None, "fp16", folder=bundles_folder / FLOAT16)


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
def engines_of(bundle_of, engines_root: Path, rtx_target: Target):
    """A kind's engines, by its name."""
    made: dict[str, EngineSet] = {}

    def engines(kind: str) -> EngineSet:
        if kind not in made:
            made[kind] = find_or_build_engines(engines_root, bundle_of(kind), rtx_target, notify=ignore)
        return made[kind]

    return engines
