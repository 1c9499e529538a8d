"""The bundle: all parts of the weights in one safetensors file, which loads by memory map.

Keys are `projector.<key>`, `dit.<key>`, `decoder.<key>` and `prompt`; the metadata says what the file is.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from flashvsr_trt.config.presets import NetworkConfig
from flashvsr_trt.errors import WeightsError
from flashvsr_trt.files.folder import remembered
from flashvsr_trt.files.manifest_reader import BadManifestError, parse_object, record_of
from flashvsr_trt.files.new import new_file, write_errors
from flashvsr_trt.model.state_shapes import NETWORKS, PARTS, PROMPT
from flashvsr_trt.model.weights.tensor_files import (
    SAFETENSORS,
    file_format,
    read_safetensors_metadata,
    read_tensors,
)

FORMAT = "flashvsr-trt weights"
FORMAT_VERSION = 1

Parts = Mapping[str, Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class BundleInfo:
    """A bundle's metadata.

    `version` and `source` are those of the weights that were folded; `network` the sizes as JSON values.
    `sha256` is, per part, of the file it came from; `content_sha256` of its tensors in the bundle.
    """

    version: str
    source: str
    network: dict[str, dict[str, Any]]
    sha256: dict[str, str]
    content_sha256: dict[str, str]


def check_target(path: Path, overwrite: bool) -> None:
    """Raise WeightsError where a bundle cannot be written, before anything is loaded for it."""
    if path.suffix != ".safetensors":
        raise WeightsError(f"{path} is no name for a bundle: end it in .safetensors")
    if os.path.lexists(path) and not overwrite:
        raise WeightsError(f"{path} exists; pass --overwrite to replace it")
    if not path.parent.is_dir():
        raise WeightsError(f"the directory {path.parent} does not exist; create it first")


def write_bundle(path: Path, parts: Parts, info: BundleInfo, overwrite: bool = False) -> None:
    """Write the bundle; it appears under its name when it is complete. Raises WeightsError."""
    check_target(path, overwrite)
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION)}
    metadata |= {name: json.dumps(value) for name, value in dataclasses.asdict(info).items()}
    tensors = {
        bundle_key(part, key): tensor.contiguous() for part in PARTS for key, tensor in parts[part].items()
    }
    with write_errors(path, WeightsError), new_file(path, overwrite=overwrite) as file:
        try:
            save_file(tensors, Path(file.part), metadata=metadata)
        except SafetensorError as error:  # of a full disk, too
            raise WeightsError(f"{path} cannot be written: {error}; nothing unfinished is left") from error
        file.finish()


def read_bundle_info(path: Path) -> BundleInfo:
    """Raises WeightsError unless the file is a bundle of this format version."""
    if file_format(path) != SAFETENSORS:
        raise WeightsError(
            f"{path} is not a weights bundle: give a directory, or a .safetensors from convert"
        )
    metadata = read_safetensors_metadata(path)
    if metadata.get("format") != FORMAT:
        raise WeightsError(
            f"{path} is a safetensors file but no weights bundle: give the directory of the published files, "
            "or make a bundle with `flashvsr-trt weights convert`"
        )
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise WeightsError(
            f"{path} is a bundle of format version {metadata.get('format_version')}, and this release reads "
            f"{FORMAT_VERSION}: convert the published files again"
        )
    try:
        stored = {f.name: metadata[f.name] for f in dataclasses.fields(BundleInfo)}
        text = "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in stored.items()) + "}"
        info = record_of(BundleInfo, parse_object(text.encode()), "metadata")
        check_parts = {*info.content_sha256, *info.sha256}
        if check_parts != set(PARTS):
            raise BadManifestError(f"it has checksums of {sorted(check_parts)}"[:200])
        return info
    except (KeyError, BadManifestError) as error:
        raise WeightsError(
            f"{path} has damaged metadata ({error}): convert the published files again"
        ) from error


def read_bundle(path: Path) -> dict[str, dict[str, torch.Tensor]]:
    """Part -> key -> tensor, memory-mapped. A key of no part is put under the part it names."""
    parts: dict[str, dict[str, torch.Tensor]] = {part: {} for part in PARTS}
    for name, tensor in read_tensors(path).items():
        part, _, key = name.partition(".")
        if name == PROMPT:
            parts[PROMPT][PROMPT] = tensor
        elif part in NETWORKS:
            parts[part][key] = tensor
        else:
            raise WeightsError(f"{path} holds {name}, which belongs to none of {', '.join(PARTS)}")
    return parts


def check_content(path: Path, parts: Parts, info: BundleInfo) -> None:
    """Raise WeightsError unless a bundle's tensors are those that were written, as far as is `remembered`."""
    found = json.loads(remembered(path.stat(), path, "content_sha256", lambda: _content_of(parts)))
    changed = [part for part in PARTS if found.get(part) != info.content_sha256.get(part)]
    if changed:
        raise WeightsError(
            f"{path} was changed: the content_sha256 of {', '.join(changed)} is not what was written; "
            "convert the published files again"
        )


def _content_of(parts: Parts) -> str:
    return json.dumps({part: content_sha256(tensors) for part, tensors in parts.items()})


def bundle_key(part: str, key: str) -> str:
    """The name of a part's tensor in the bundle."""
    return PROMPT if part == PROMPT else f"{part}.{key}"


def content_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Hex digest over names, dtypes, shapes and bytes, in the order of the names."""
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def network_json(network: NetworkConfig) -> dict:
    """The sizes as they come back from JSON: tuples are lists."""
    return json.loads(json.dumps(dataclasses.asdict(network)))


def network_differences(found: dict, expected: dict) -> list[str]:
    """Each size that differs, as "dit.dim is 128, expected 1536"."""
    return [
        f"{part}.{name} is {found.get(part, {}).get(name)}, expected {size}"
        for part, sizes in expected.items()
        for name, size in sizes.items()
        if found.get(part, {}).get(name) != size
    ]
