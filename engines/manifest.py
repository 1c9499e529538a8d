"""`engines.json`: what is in a folder of engines, and of what. Reading it needs neither TensorRT nor onnx."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashvsr_trt.bundle import Bundle, read_bundle, sha256_of
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.engines.plan import SegmentPlan, plan_from_dict
from flashvsr_trt.errors import BundleError, EngineError

MANIFEST = "engines.json"
FORMAT = "flashvsr-trt engines"
FORMAT_VERSION = 1

KERNELS = "kernels"
"""Folder of the compiled kernels, with their own manifest, where a plan launches any."""

BUILD_AGAIN = "build them again with `flashvsr-trt engines build`"


@dataclass(frozen=True)
class EngineFile:
    """An engine on disk, by its name in the folder; `seconds` it took to build."""

    name: str
    sha256: str
    size_bytes: int
    seconds: float


@dataclass(frozen=True)
class EngineManifest:
    """One stream's engines.

    Attributes:
        key: everything that would make an engine wrong (see `cache.engine_key`).
        flavour, version: of the builder; only the same version is sure to load its engines.
        capability: compute capability, like "8.9".
        device, driver: where it was built, if on a GPU.
        plans: graph name -> the steps that run it.
        engines: engine name -> its file. A tensor's layout between them is row-major, as `plans` shape it.
        kernels: kernel name -> hash of its source.
        build_seconds, peak_bytes: what the build took, in time and in memory of the host.
    """

    key: Mapping[str, Any]
    flavour: str
    version: str
    capability: str
    device: str | None
    driver: str | None
    precision: str
    options: BuildOptions
    plans: Mapping[str, SegmentPlan]
    engines: Mapping[str, EngineFile]
    kernels: Mapping[str, str]
    build_seconds: float
    peak_bytes: int

    @property
    def size_bytes(self) -> int:
        """Of all engines."""
        return sum(file.size_bytes for file in self.engines.values())


@dataclass(frozen=True)
class EngineSet:
    """A folder of engines, opened. It holds the bundle as well: graphs, and weights by a hard link."""

    folder: Path
    manifest: EngineManifest
    bundle: Bundle

    def engine_path(self, name: str) -> Path:
        """Where an engine's file is."""
        return self.folder / self.manifest.engines[name].name

    def model_path(self, name: str) -> Path:
        """The ONNX file an engine was built from; its weights lie beside, to refit a stripped engine with."""
        return self.folder / model_name(name)

    @property
    def kernels_folder(self) -> Path:
        """Where the compiled kernels and their manifest are."""
        return self.folder / KERNELS

    def signature_bindings(self, graph: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """A graph's inputs and outputs by the bundle: name -> dtype and shape."""
        signature = self.bundle.signatures[graph]
        specs = (*signature.graph_inputs, *signature.graph_outputs)
        return {spec.name: (self.bundle.dtype_of(spec), spec.shape) for spec in specs}

    def read_engine(self, name: str) -> bytes:
        """An engine's bytes. Raises EngineError as `check_engine`."""
        self.check_engine(name)
        return self.engine_path(name).read_bytes()

    def check_engine(self, name: str) -> None:
        """Raise EngineError if an engine's bytes are not those that were built."""
        file = self.manifest.engines[name]
        path = self.engine_path(name)
        check_size(path, file)
        if sha256_of(path) != file.sha256:
            raise EngineError(f"{path} was changed: its sha256 is not that of {MANIFEST}; {BUILD_AGAIN}")


def model_name(engine: str) -> str:
    """The file of a segment's ONNX model, beside the bundle's own graphs."""
    return f"{engine}.segment.onnx"


def write_manifest(folder: Path, manifest: EngineManifest) -> None:
    """Write `engines.json`; a folder without it holds no engines."""
    stored = asdict(manifest) | {"plans": {name: plan.as_dict() for name, plan in manifest.plans.items()}}
    content = {"format": FORMAT, "format_version": FORMAT_VERSION} | stored
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n")


def open_engines(folder: Path) -> EngineSet:
    """Open a folder of engines, in milliseconds: sizes are checked, contents when an engine is read.

    Raises:
        EngineError: none there, of another format version, damaged, or with files missing or truncated.
    """
    stored = _read_json(folder)
    try:
        fields = {name: stored[name] for name in EngineManifest.__dataclass_fields__}
        manifest = EngineManifest(
            **fields
            | {
                "options": BuildOptions(**stored["options"]),
                "plans": {name: plan_from_dict(plan) for name, plan in stored["plans"].items()},
                "engines": {name: EngineFile(**file) for name, file in stored["engines"].items()},
            }
        )
        wanted = {name for plan in manifest.plans.values() for name in plan.engines}
        if wanted != set(manifest.engines):
            raise ValueError(f"its plans run {sorted(wanted ^ set(manifest.engines))}, and it has others")
        bundle = read_bundle(folder, verify=False)
    except (KeyError, TypeError, ValueError) as error:
        raise EngineError(f"{folder / MANIFEST} is damaged ({error!r}): {BUILD_AGAIN}") from error
    except BundleError as error:
        raise EngineError(f"the engines in {folder} are damaged: {error}; {BUILD_AGAIN}") from error
    for file in manifest.engines.values():
        check_size(folder / file.name, file)
    return EngineSet(folder, manifest, bundle)


def check_size(path: Path, file: EngineFile) -> None:
    """Raise EngineError if an engine is missing or has another size than was written."""
    if not path.is_file():
        raise EngineError(f"{path.parent} lacks {file.name}: {BUILD_AGAIN}")
    size = path.stat().st_size
    if size != file.size_bytes:
        raise EngineError(
            f"{path} is truncated or changed: it has {size:,} bytes and had {file.size_bytes:,}; "
            f"{BUILD_AGAIN}"
        )


def _read_json(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise EngineError(f"there are no engines in {folder}: it has no {MANIFEST}; {BUILD_AGAIN}") from error
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read ({error}): {BUILD_AGAIN}") from error
    if not isinstance(stored, dict) or stored.get("format") != FORMAT:
        raise EngineError(f"{path} is not a manifest of engines: {BUILD_AGAIN}")
    if stored.get("format_version") != FORMAT_VERSION:
        raise EngineError(
            f"{folder} holds engines of format version {stored.get('format_version')}, and this release "
            f"reads {FORMAT_VERSION}: {BUILD_AGAIN}"
        )
    return stored
