"""What a weights file or directory holds, and whether it would load: nothing is raised for its contents."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from flashvsr_trt.config.presets import NetworkConfig
from flashvsr_trt.errors import WeightsError
from flashvsr_trt.files.folder import sha256_of
from flashvsr_trt.model.state_shapes import (
    PARTS,
    PROMPT,
    Difference,
    difference,
    misfit,
    shapes_of,
    sizes_of,
    state_shapes,
)
from flashvsr_trt.model.weights.bundle import (
    content_sha256,
    network_differences,
    network_json,
    read_bundle,
    read_bundle_info,
)
from flashvsr_trt.model.weights.load import UNPUBLISHED, UNVERIFIED
from flashvsr_trt.model.weights.published import FILES, VERSION, is_published
from flashvsr_trt.model.weights.source import resolve_weights
from flashvsr_trt.model.weights.tensor_files import file_format, read_tensors


@dataclass(frozen=True)
class PartReport:
    """One part of the weights. `problem` is None where it would load."""

    part: str
    path: str
    format: str | None = None
    version: str | None = None
    sha256: str | None = None
    tensors: int = 0
    parameters: int = 0
    dtypes: tuple[str, ...] = ()
    sizes: Mapping[str, int | tuple[int, ...]] | None = None
    difference: Difference | None = None
    problem: str | None = None


@dataclass(frozen=True)
class WeightsReport:
    """All parts that were looked at, and what concerns them together."""

    path: str
    parts: tuple[PartReport, ...]
    version: str | None = None
    problem: str | None = None

    @property
    def problems(self) -> list[str]:
        """One line each; empty where the weights would load."""
        own = [self.problem] if self.problem else []
        return own + [f"{part.part}: {part.problem}" for part in self.parts if part.problem]

    def as_dict(self) -> dict:
        return asdict(self) | {"loads": not self.problems}


def report_weights(path: Path, network: NetworkConfig, prompt: Path | None = None) -> WeightsReport:
    """Look at a directory of published files, one of these files, or a bundle.

    Raises WeightsError only where nothing can be looked at: the path does not exist.
    """
    if path.is_dir():
        return _report_directory(path, network, prompt)
    if not path.exists():
        raise WeightsError(f"{path} does not exist")
    named = [file.part for file in FILES.values() if file.name == path.name]
    if named:
        part = _report_file(named[0], path, network)
        return WeightsReport(str(path), (part,), part.version)
    return _report_bundle(path, network)


def _report_directory(directory: Path, network: NetworkConfig, prompt: Path | None) -> WeightsReport:
    problem = None
    try:
        source = resolve_weights(str(directory), network, prompt)
        paths = {part: getattr(source, part) for part in PARTS}
    except WeightsError as error:
        problem = str(error)
        paths = {part: directory / file.name for part, file in FILES.items()}
    parts = tuple(_report_file(part, path, network) for part, path in paths.items() if path.is_file())
    versions = {part.version for part in parts}
    version = versions.pop() if len(versions) == 1 else "mixed"
    if problem is None and is_published(network) and version != VERSION:
        problem = f"not every file is the published {VERSION} one"
    return WeightsReport(str(directory), parts, version, problem)


def _report_file(part: str, path: Path, network: NetworkConfig) -> PartReport:
    try:
        tensors = read_tensors(path, bare_key=PROMPT if part == PROMPT else None)
        kind = file_format(path)
    except WeightsError as error:
        return PartReport(part, str(path), problem=str(error))
    sha256 = sha256_of(path)
    if sha256 == FILES[part].sha256:
        version = VERSION
    else:
        version = UNVERIFIED if is_published(network) else UNPUBLISHED
    return _with_tensors(PartReport(part, str(path), kind, version, sha256), tensors, network)


def _report_bundle(path: Path, network: NetworkConfig) -> WeightsReport:
    try:
        info = read_bundle_info(path)
        parts = read_bundle(path)
    except WeightsError as error:
        return WeightsReport(str(path), (), problem=str(error))
    reports = tuple(
        _with_tensors(
            PartReport(part, str(path), "bundle", info.version, info.sha256.get(part)), parts[part], network
        )
        for part in PARTS
    )
    damaged = [part for part in PARTS if content_sha256(parts[part]) != info.content_sha256.get(part)]
    differing = network_differences(info.network, network_json(network))
    problem = None
    if damaged:
        problem = f"the contents of {', '.join(damaged)} have changed since the bundle was written"
    elif differing:
        problem = f"it holds another network: {'; '.join(differing)}"
    return WeightsReport(str(path), reports, info.version, problem)


def _with_tensors(
    report: PartReport, tensors: Mapping[str, torch.Tensor], network: NetworkConfig
) -> PartReport:
    shapes, expected = shapes_of(tensors), state_shapes(network)[report.part]
    return replace(
        report,
        tensors=len(tensors),
        parameters=sum(math.prod(shape) for shape in shapes.values()),
        dtypes=tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values()})),
        sizes=sizes_of(report.part, shapes),
        difference=difference(shapes, expected),
        problem=misfit(report.part, shapes, expected),
    )
