"""`engines.json`: what is in a folder of engines, and of what. Reading it needs neither TensorRT nor onnx."""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from flashvsr_trt.bundle import MANIFEST as BUNDLE_MANIFEST
from flashvsr_trt.bundle import Bundle, graph_content, read_bundle
from flashvsr_trt.engines.flavours import FLAVOURS, architecture_of
from flashvsr_trt.engines.layers import layers_name
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.engines.plan import SegmentPlan, check_plan
from flashvsr_trt.errors import BundleError, EngineError, UsageError
from flashvsr_trt.files.folder import (
    BadFileError,
    NamedFile,
    check_contents,
    check_names,
    check_size,
    read_checked,
    sha256_of,
)
from flashvsr_trt.files.manifest_reader import (
    BadManifestError,
    dump_manifest,
    manifest_errors,
    read_manifest,
    record_of,
)
from flashvsr_trt.files.new import write_text
from flashvsr_trt.kernels.manifest import MANIFEST as KERNEL_MANIFEST
from flashvsr_trt.kernels.manifest import check_kernels

MANIFEST = "engines.json"
FORMAT = "flashvsr-trt engines"
FORMAT_VERSION = 5
"""5: a plan's tensors are by their names."""

KERNELS = "kernels"
"""Folder of the compiled kernels, with their own manifest, where a plan launches any."""

WEIGHTS_KEY = "flashvsr_trt.weights"
"""In a session file's metadata: input -> its bytes' {"file", "offset", "size_bytes", "dtype", "shape"}."""

_CAPABILITY = re.compile(r"\d{1,2}\.\d")

BUILD_AGAIN = "build them again with `flashvsr-trt engines build`"


@dataclass(frozen=True)
class EngineFile(NamedFile):
    """An engine on disk, by its name in the folder; `seconds` it took to build."""

    seconds: float


def built_file(path: Path, began: float) -> EngineFile:
    """An engine that was just written; building it began at that `time.perf_counter()`."""
    seconds = round(time.perf_counter() - began, 3)
    return EngineFile(path.name, sha256_of(path), path.stat().st_size, seconds)


@dataclass(frozen=True)
class EngineKey:
    """Everything that decides the engines; two equal keys mean that one build serves for both.

    Attributes:
        release, format_version, lowering: of what made them: this package, and a hash of its sources.
        flavour, version: of the builder; only the same version is sure to load its engines.
        capability: compute capability, like "8.9".
        device: that they were built on and are for; None where any of the capability runs them.
        graphs: graph name -> sha256, and that of the `weights` file.
        kernels: kernel name -> hash of its source.
    """

    release: str
    format_version: int
    lowering: str
    flavour: str
    version: str
    capability: str
    device: str | None
    graphs: Mapping[str, str]
    weights: str
    precision: str
    options: BuildOptions
    kernels: Mapping[str, str]

    @property
    def architecture(self) -> str:
        return architecture_of(self.capability)


@dataclass(frozen=True)
class EngineManifest:
    """One stream's engines.

    Attributes:
        device, driver: where it was built, if on a GPU.
        plans: graph name -> the steps that run it.
        engines: engine name -> its file. A tensor's layout between them is row-major, as `plans` shape it.
        segments: engine name -> the ONNX file that it was built from.
        layers: engine name -> the file that lists what the builder made of it.
        kernel_manifest: the manifest of the compiled kernels, which has their checksums; None without any.
        build_seconds, peak_bytes: what the build took, in time and in memory of the host.
    """

    key: EngineKey
    device: str | None
    driver: str | None
    plans: Mapping[str, SegmentPlan]
    engines: Mapping[str, EngineFile]
    segments: Mapping[str, NamedFile]
    layers: Mapping[str, NamedFile]
    kernel_manifest: NamedFile | None
    build_seconds: float
    peak_bytes: int

    @property
    def files(self) -> tuple[NamedFile, ...]:
        """All that a folder has beside its manifest, the bundle and the kernels."""
        return *self.engines.values(), *self.segments.values(), *self.layers.values()

    @property
    def size_bytes(self) -> int:
        return sum(file.size_bytes for file in self.engines.values())


@dataclass(frozen=True)
class EngineSet:
    """A folder of engines, opened. It holds the bundle as well: graphs, and weights by a hard link."""

    folder: Path
    manifest: EngineManifest
    bundle: Bundle

    def engine_path(self, name: str) -> Path:
        return self.folder / self.manifest.engines[name].name

    def model_path(self, name: str) -> Path:
        """The ONNX file an engine was built from; its weights lie beside, to refit a stripped engine with."""
        return self.folder / model_name(name)

    @property
    def kernels_folder(self) -> Path:
        return self.folder / KERNELS

    def signature_bindings(self, graph: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """A graph's inputs and outputs by the bundle: name -> dtype and shape."""
        signature = self.bundle.signatures[graph]
        specs = (*signature.graph_inputs, *signature.graph_outputs)
        return {spec.name: (self.bundle.dtype_of(spec), spec.shape) for spec in specs}

    def read_engine(self, name: str) -> bytes:
        """An engine's bytes, which are those that were built. Raises EngineError."""
        with _file_errors():
            return read_checked(self.folder, self.manifest.engines[name])

    def check_segment(self, name: str) -> None:
        """Raise EngineError if an engine's model is not what was written, or keeps tensors elsewhere."""
        with _file_errors():
            graph_content(self.folder, self.manifest.segments[name], self.bundle.weights.file.name)

    def check_contents(self) -> None:
        """Raise EngineError if any file but the engines is not what was written.

        Engines are checked when they are read. Large files that were checked before, and are the same by
        size and time, are not read again.
        """
        try:
            read_bundle(self.folder, verify=True, beside=(MANIFEST,))
        except BundleError as error:
            raise EngineError(f"the engines in {self.folder} are damaged: {error}; {BUILD_AGAIN}") from error
        for name in self.manifest.segments:
            self.check_segment(name)
        self.check_files(self.manifest.layers)
        self.check_kernels()

    def check_files(self, files: Mapping[str, NamedFile]) -> None:
        """Raise EngineError if engines, or lists of layers, are not what was written; see `remembered`."""
        with _file_errors():
            for file in files.values():
                check_contents(self.folder, file)

    def check_kernels(self) -> None:
        """Raise EngineError if a compiled kernel, or the manifest of them, is not what was written."""
        if self.manifest.kernel_manifest is None:
            return
        with _file_errors():
            read_checked(self.kernels_folder, self.manifest.kernel_manifest)
        try:
            check_kernels(self.kernels_folder)
        except UsageError as error:
            raise EngineError(f"the engines in {self.folder} are damaged: {error}") from error


def model_name(engine: str) -> str:
    """The file of a segment's ONNX model, beside the bundle's own graphs."""
    return f"{engine}.segment.onnx"


def write_manifest(folder: Path, manifest: EngineManifest) -> None:
    """Write `engines.json`; a folder without it holds no engines."""
    content = {"format": FORMAT, "format_version": FORMAT_VERSION} | asdict(manifest)
    write_text(folder / MANIFEST, dump_manifest(content))


def open_engines(folder: Path) -> EngineSet:
    """Open a folder of engines, in milliseconds: sizes are checked, contents when they are used.

    Raises:
        EngineError: none there, of another format version, damaged, or with files missing or truncated.
    """
    content = read_manifest(folder, MANIFEST, (FORMAT, FORMAT_VERSION), EngineError, BUILD_AGAIN)
    try:
        with manifest_errors(folder / MANIFEST, EngineError, BUILD_AGAIN):
            manifest = record_of(EngineManifest, content)
            files = manifest.files
            bundle = read_bundle(folder, verify=False, beside=(MANIFEST, *(file.name for file in files)))
            _check_manifest(manifest, bundle)
            for file in files:
                check_size(folder, file)
            if manifest.kernel_manifest:
                check_size(folder / KERNELS, manifest.kernel_manifest)
    except BundleError as error:
        raise EngineError(f"the engines in {folder} are damaged: {error}; {BUILD_AGAIN}") from error
    return EngineSet(folder, manifest, bundle)


def _check_manifest(manifest: EngineManifest, bundle: Bundle) -> None:
    """What the parts say of each other."""
    key, engines = manifest.key, {name for plan in manifest.plans.values() for name in plan.engines}
    check_names(manifest.engines)
    check_names(
        (file.name for file in manifest.files),
        reserved=(MANIFEST, BUNDLE_MANIFEST, KERNELS),
    )
    if manifest.kernel_manifest and manifest.kernel_manifest.name != KERNEL_MANIFEST:
        raise BadManifestError(f"the kernels' manifest is {manifest.kernel_manifest.name!r:.60}")
    if engines != set(manifest.engines):
        raise BadManifestError(f"its plans run {sorted(engines ^ set(manifest.engines))}, and it has others")
    for files, naming, what in (
        (manifest.segments, model_name, "models"),
        (manifest.layers, layers_name, "lists of layers"),
    ):
        if {name: file.name for name, file in files.items()} != {name: naming(name) for name in engines}:
            raise BadManifestError(f"its {what} are not those of its engines")
    if set(manifest.plans) != set(bundle.graphs):
        raise BadManifestError(f"it has plans of {sorted(manifest.plans)}, which are not the bundle's graphs")
    if bool(key.kernels) != bool(manifest.kernel_manifest):
        raise BadManifestError("it has kernels without a manifest, or a manifest without kernels")
    if key.flavour not in FLAVOURS:
        raise BadManifestError(f"it is of the flavour {key.flavour!r:.40}, not of {', '.join(FLAVOURS)}")
    if key.precision != bundle.precision or not _CAPABILITY.fullmatch(key.capability):
        raise BadManifestError(f"it is of {key.precision!r:.20} for {key.capability!r:.20}")
    for name, plan in manifest.plans.items():
        check_plan(plan, name)


@contextmanager
def _file_errors() -> Iterator[None]:
    try:
        yield
    except BadFileError as error:
        raise EngineError(f"{error}; {BUILD_AGAIN}") from error
