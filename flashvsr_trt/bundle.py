"""A bundle: the exported graphs of one stream, their weights, and `bundle.json` that says what they are.

Reading one needs neither torch nor onnx, so that a runtime can.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flashvsr_trt.errors import BundleError, PresetError
from flashvsr_trt.geometry import Geometry
from flashvsr_trt.presets import (
    AttentionConfig,
    DecoderConfig,
    DiTConfig,
    NetworkConfig,
    Preset,
    ProjectorConfig,
    find_schedule,
)
from flashvsr_trt.signatures import COMPUTE, StageSignature, StreamConfig, TensorSpec, stage_signatures

MANIFEST = "bundle.json"
FORMAT = "flashvsr-trt bundle"
FORMAT_VERSION = 1

PRECISIONS = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
"""Names on the command line -> the dtype that COMPUTE stands for."""

_EXPORT_AGAIN = "export it again with `flashvsr-trt export`"


@dataclass(frozen=True)
class BundleFile:
    """A file of the bundle, by its name in the folder."""

    name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class BundleWeights:
    """The weights file, which bundles of one network and precision share, and where its values come from.

    `spec` is what `--weights` was given, None for values that have no name; `fingerprint` is that of
    `model.weights.Weights`.
    """

    file: BundleFile
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
    graphs: Mapping[str, BundleFile]
    weights: BundleWeights
    exporter: Mapping[str, str]

    @property
    def compute(self) -> str:
        """The dtype that COMPUTE stands for."""
        return PRECISIONS[self.precision]

    @property
    def signatures(self) -> dict[str, StageSignature]:
        """Inputs, state and outputs of every graph."""
        return stage_signatures(self.stream)

    @property
    def files(self) -> tuple[BundleFile, ...]:
        """Every file but the manifest."""
        return *self.graphs.values(), self.weights.file

    def graph_path(self, name: str) -> Path:
        """Where a graph's ONNX file is."""
        return self.folder / self.graphs[name].name

    def dtype_of(self, spec: TensorSpec) -> str:
        """The numpy name of a tensor's dtype in this bundle."""
        return self.compute if spec.dtype == COMPUTE else spec.dtype


def read_bundle(folder: Path, verify: bool = True) -> Bundle:
    """Open the bundle in a folder; with `verify`, every file's contents are checked against its sha256.

    Raises:
        BundleError: no bundle there, one of another format version, or files missing or changed.
    """
    manifest = _read_manifest(folder)
    try:
        stream = _stream_from(manifest["stream"])
        weights = manifest["weights"]
        bundle = Bundle(
            folder=folder,
            stream=stream,
            precision=manifest["precision"],
            graphs={name: BundleFile(**graph["file"]) for name, graph in manifest["graphs"].items()},
            weights=BundleWeights(**weights | {"file": BundleFile(**weights["file"])}),
            exporter=manifest["exporter"],
        )
    except (KeyError, TypeError, PresetError) as error:
        raise BundleError(f"{folder / MANIFEST} is damaged ({error!r}): {_EXPORT_AGAIN}") from error
    if _graphs_json(bundle) != manifest["graphs"]:
        raise BundleError(
            f"{folder} declares other inputs and outputs than this release gives its stream: {_EXPORT_AGAIN}"
        )
    _check_files(bundle, verify)
    return bundle


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
    (bundle.folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")


def describe_file(path: Path) -> BundleFile:
    """Size and digest of a file that was written."""
    return BundleFile(path.name, sha256_of(path), path.stat().st_size)


def sha256_of(path: Path) -> str:
    """Hex digest of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise BundleError(f"there is no bundle {folder}: make one with `flashvsr-trt export -o {folder}`")
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BundleError(f"{folder} is no bundle: it has no {MANIFEST}; {_EXPORT_AGAIN}") from error
    except (OSError, ValueError) as error:
        raise BundleError(f"{path} cannot be read ({error}): {_EXPORT_AGAIN}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise BundleError(f"{path} is not the manifest of a bundle: {_EXPORT_AGAIN}")
    if manifest.get("format_version") != FORMAT_VERSION:
        raise BundleError(
            f"{folder} is a bundle of format version {manifest.get('format_version')}, and this release "
            f"reads {FORMAT_VERSION}: {_EXPORT_AGAIN}"
        )
    return manifest


def _check_files(bundle: Bundle, verify: bool) -> None:
    for file in bundle.files:
        path = bundle.folder / file.name
        if not path.is_file():
            raise BundleError(f"{bundle.folder} lacks {file.name}: {_EXPORT_AGAIN}")
        size = path.stat().st_size
        if size != file.size_bytes:
            raise BundleError(
                f"{path} was changed: it has {size:,} bytes and had {file.size_bytes:,}; {_EXPORT_AGAIN}"
            )
        if verify and sha256_of(path) != file.sha256:
            raise BundleError(f"{path} was changed: its sha256 is not that of {MANIFEST}; {_EXPORT_AGAIN}")


def _graphs_json(bundle: Bundle) -> dict[str, Any]:
    """Each graph's file and tensors, as they come back from JSON."""

    def tensors(specs: tuple[TensorSpec, ...]) -> list[dict[str, Any]]:
        return [
            {
                "name": spec.name,
                "dtype": bundle.dtype_of(spec),
                "shape": list(spec.shape),
                "layout": spec.layout,
            }
            for spec in specs
        ]

    return {
        name: {
            "file": dataclasses.asdict(bundle.graphs[name]),
            "inputs": tensors(signature.inputs),
            "state": tensors(signature.state),
            "outputs": tensors(signature.outputs),
        }
        for name, signature in bundle.signatures.items()
    }


def _stream_from(stored: dict[str, Any]) -> StreamConfig:
    preset = stored["preset"]
    network = preset["network"]
    return StreamConfig(
        preset=Preset(
            **preset
            | {
                "network": NetworkConfig(
                    dit=DiTConfig(**network["dit"]),
                    projector=ProjectorConfig(hidden=tuple(network["projector"]["hidden"])),
                    decoder=DecoderConfig(channels=tuple(network["decoder"]["channels"])),
                ),
                "attention": AttentionConfig(**preset["attention"]),
                "aliases": tuple(preset["aliases"]),
            }
        ),
        geometry=Geometry(**stored["geometry"]),
        schedule=find_schedule(stored["schedule"]),
        upsampler=stored["upsampler"],
        color_fix=stored["color_fix"],
    )
