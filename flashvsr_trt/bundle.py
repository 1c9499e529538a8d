"""A bundle: the exported graphs of one stream, their weights, and `bundle.json` that says what they are.

Reading one needs neither torch nor onnx, so that a runtime can.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import DiTConfig, Preset, find_schedule
from flashvsr_trt.config.signatures import (
    COLOR_FIXES,
    COMPUTE,
    DTYPE_BYTES,
    UPSAMPLERS,
    StageSignature,
    StreamConfig,
    TensorSpec,
    stage_signatures,
)
from flashvsr_trt.errors import BundleError, FlashVSRError
from flashvsr_trt.files.folder import (
    BadFileError,
    NamedFile,
    check_contents,
    check_names,
    check_size,
    read_checked,
)
from flashvsr_trt.files.manifest_reader import (
    BadManifestError,
    dump_manifest,
    manifest_errors,
    read_manifest,
    record_of,
)
from flashvsr_trt.files.new import write_text
from flashvsr_trt.files.onnx_locations import external_locations

MANIFEST = "bundle.json"
FORMAT = "flashvsr-trt bundle"
FORMAT_VERSION = 2

PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Names on the command line -> the dtype that COMPUTE stands for."""

_EXPORT_AGAIN = "export it again with `flashvsr-trt export`"


LARGEST_SIDE = 1 << 16
"""Of a frame, in pixels: more than any video format has."""

LARGEST_RING = 64
"""Past units that attention may see."""


@dataclass(frozen=True)
class BundleWeights:
    """The weights file, which bundles of one network and precision share, and where its values come from.

    `spec` is what `--weights` was given, None for values that have no name; `fingerprint` is that of
    `model.weights.Weights`.
    """

    file: NamedFile
    spec: str | None
    source: str
    version: str
    fingerprint: str


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `graphs` are by the names of `stage_signatures`, `exporter` tool -> version."""

    folder: Path
    stream: StreamConfig
    precision: str
    graphs: Mapping[str, NamedFile]
    weights: BundleWeights
    exporter: Mapping[str, str]

    @property
    def compute(self) -> str:
        """The dtype that COMPUTE stands for."""
        return PRECISIONS[self.precision]

    @property
    def signatures(self) -> dict[str, StageSignature]:
        return stage_signatures(self.stream)

    @property
    def files(self) -> tuple[NamedFile, ...]:
        return *self.graphs.values(), self.weights.file

    def graph_path(self, name: str) -> Path:
        return self.folder / self.graphs[name].name

    def dtype_of(self, spec: TensorSpec) -> str:
        """The numpy name of a tensor's dtype in this bundle."""
        return self.compute if spec.dtype == COMPUTE else spec.dtype


@dataclass(frozen=True)
class _StoredGraph:
    """Its tensors are compared with those that the stream has, as a whole."""

    file: NamedFile
    inputs: tuple[Any, ...]
    state: tuple[Any, ...]
    outputs: tuple[Any, ...]


@dataclass(frozen=True)
class _StoredStream:
    preset: Preset
    geometry: Geometry
    schedule: str
    upsampler: str
    color_fix: str


@dataclass(frozen=True)
class _Stored:
    precision: str
    stream: _StoredStream
    graphs: Mapping[str, _StoredGraph]
    weights: BundleWeights
    exporter: Mapping[str, str]


def read_bundle(folder: Path, verify: bool = True, beside: tuple[str, ...] = ()) -> Bundle:
    """Open the bundle in a folder; with `verify`, every file's contents are checked against its sha256.

    Large files that were checked before, and are the same by size and time, are not read again. Graphs may
    refer to the weights file and to no other, which is looked at with `verify`.

    Args:
        beside: other manifests of the folder, whose names no file may have.

    Raises:
        BundleError: no bundle there, one of another format version, or files missing or changed.
    """
    if not folder.is_dir():
        raise BundleError(f"there is no bundle {folder}: make one with `flashvsr-trt export -o {folder}`")
    content = read_manifest(folder, MANIFEST, (FORMAT, FORMAT_VERSION), BundleError, _EXPORT_AGAIN)
    with manifest_errors(folder / MANIFEST, BundleError, _EXPORT_AGAIN):
        stored = record_of(_Stored, content)
        files = [*(graph.file for graph in stored.graphs.values()), stored.weights.file]
        check_names([file.name for file in files], reserved=(MANIFEST, *beside))
        for file in files:
            check_size(folder, file)
        bundle = Bundle(
            folder=folder,
            stream=_stream_of(stored),
            precision=stored.precision,
            graphs={name: graph.file for name, graph in stored.graphs.items()},
            weights=stored.weights,
            exporter=stored.exporter,
        )
        if _graphs_json(bundle) != content["graphs"]:
            raise BadManifestError("it declares other inputs and outputs than this release gives its stream")
        if verify:
            check_contents(folder, bundle.weights.file)
            for graph in bundle.graphs.values():
                graph_content(folder, graph, bundle.weights.file.name)
    return bundle


def graph_content(folder: Path, file: NamedFile, weights_name: str) -> bytes:
    """An ONNX file's bytes: those that were written, with no tensor outside the weights file.

    ONNX Runtime and TensorRT open whatever a graph names, so this is looked at before they see it.

    Raises:
        BadFileError: they are others, or name another file.
    """
    raw = read_checked(folder, file)
    for location in external_locations(raw):
        if location != weights_name:
            raise BadFileError(
                f"{folder / file.name} keeps tensors in {location!r:.80}, and may only in {weights_name}"
            )
    return raw


def write_manifest(bundle: Bundle) -> None:
    """Write `bundle.json` into the bundle's folder; a folder without one is no bundle."""
    manifest = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "precision": bundle.precision,
        "stream": dataclasses.asdict(bundle.stream) | {"schedule": bundle.stream.schedule.name},
        "graphs": _graphs_json(bundle),
        "weights": dataclasses.asdict(bundle.weights),
        "exporter": dict(bundle.exporter),
    }
    write_text(bundle.folder / MANIFEST, dump_manifest(manifest))


def _graphs_json(bundle: Bundle) -> dict[str, Any]:
    """Each graph's file and tensors, as they come back from JSON."""

    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [
            {"name": s.name, "dtype": bundle.dtype_of(s), "shape": list(s.shape), "layout": s.layout}
            for s in specs
        ]

    return {
        name: {"file": dataclasses.asdict(bundle.graphs[name])}
        | {role: tensors(getattr(signature, role)) for role in ("inputs", "state", "outputs")}
        for name, signature in bundle.signatures.items()
    }


def _stream_of(stored: _Stored) -> StreamConfig:
    """The stream, once all sizes that anything is allocated by are known to be those of the files."""
    stream, network, attention = stored.stream, stored.stream.preset.network, stored.stream.preset.attention
    if stored.precision not in PRECISIONS:
        raise BadManifestError(f"precision {stored.precision!r:.40} is none of {', '.join(PRECISIONS)}")
    if stream.upsampler not in UPSAMPLERS or stream.color_fix not in COLOR_FIXES:
        raise BadManifestError(
            f"upsampler {stream.upsampler!r:.40} or colour fix {stream.color_fix!r:.40} is not known"
        )
    if max(stream.geometry.height, stream.geometry.width) > LARGEST_SIDE:
        raise BadManifestError(f"a frame of {stream.geometry.width}x{stream.geometry.height} is too large")
    if not (0 <= attention.past_units < LARGEST_RING and 0 < attention.local_range <= LARGEST_SIDE):
        raise BadManifestError(f"attention over {attention} is none")
    if attention.sparse_ratio is not None and not 0 < attention.sparse_ratio <= LARGEST_SIDE:
        raise BadManifestError(f"the sparse ratio {attention.sparse_ratio} is none")
    sizes = (*network.projector.hidden, *network.decoder.channels)
    weights_bytes, item_bytes = stored.weights.file.size_bytes, DTYPE_BYTES[PRECISIONS[stored.precision]]
    _check_transformer(network.dit, stored, weights_bytes // item_bytes)
    if min(sizes) < 1 or max(sizes) > weights_bytes:
        raise BadManifestError(f"the channels {sizes} do not fit {weights_bytes:,} bytes of weights")
    try:
        return StreamConfig(
            stream.preset, stream.geometry, find_schedule(stream.schedule), stream.upsampler, stream.color_fix
        )
    except FlashVSRError as error:
        raise BadManifestError(str(error)) from error


def _check_transformer(dit: DiTConfig, stored: _Stored, parameters: int) -> None:
    """Each layer has a tensor that is listed and matrices in the weights file: so many can there be."""
    counts = dataclasses.astuple(dit)[:-1]
    listed = max((len(graph.inputs) for graph in stored.graphs.values()), default=0)
    if min(counts) < 1 or dit.heads > dit.dim or dit.layers > listed:
        raise BadManifestError(f"{dit} is no network, or none of {listed} inputs")
    if dit.layers * dit.dim * (4 * dit.dim + 2 * dit.ffn_dim) > parameters:
        raise BadManifestError(f"{dit} does not fit {parameters:,} parameters")
    if max(dit.text_dim, dit.text_tokens, dit.freq_dim) > LARGEST_SIDE:
        raise BadManifestError(f"{dit} is no network")
