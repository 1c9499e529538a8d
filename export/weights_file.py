"""The weights of a bundle's graphs: one safetensors file that all of them refer to as external data.

Bundles of one network and precision share it: the file beside them is hard-linked, not written again.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from flashvsr_trt.bundle import MANIFEST, read_bundle
from flashvsr_trt.errors import BundleError
from flashvsr_trt.files.folder import NamedFile, describe_file
from flashvsr_trt.model.network import Network


def network_tensors(network: Network) -> dict[str, torch.Tensor]:
    """Everything a graph may refer to, by the name it has in the weights file."""
    modules = {"projector": network.projector, "dit": network.dit, "decoder": network.decoder}
    return {
        f"{part}.{name}": tensor
        for part, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


def weights_file_name(fingerprint: str, precision: str) -> str:
    """One name for one content, whatever the size of the frames."""
    return f"weights-{precision}-{fingerprint[:16]}.safetensors"


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> NamedFile:
    """Write the tensors from where they are, without a copy in memory. Raises BundleError."""
    try:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:  # of a full disk, too
        raise BundleError(f"{path.name} cannot be written: {error}; nothing unfinished is left") from error
    path.chmod(0o644)
    return describe_file(path)


def link_sibling_weights(path: Path, siblings: Path, names: set[str]) -> NamedFile | None:
    """Hard-link the weights file of that name from a bundle in the folder `siblings`, if one has it whole.

    Args:
        path: where the file is wanted.
        siblings: a folder of bundles.
        names: the tensors that must be in it.
    """
    for manifest in sorted(siblings.glob(f"*/{MANIFEST}")):
        source = manifest.parent / path.name
        if not source.is_file():
            continue
        try:
            file = read_bundle(manifest.parent).weights.file
        except BundleError:
            continue
        if file.name == path.name and names <= set(data_offsets(source)):
            try:
                os.link(source, path)
            except OSError:
                return None
            return file
    return None


def data_offsets(path: Path) -> dict[str, int]:
    """Tensor name -> where its bytes start in a safetensors file (its documented layout)."""
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(header_bytes))
    return {
        name: 8 + header_bytes + entry["data_offsets"][0]
        for name, entry in header.items()
        if name != "__metadata__"
    }
