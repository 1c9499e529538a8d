"""Reading one file of tensors, memory-mapped: safetensors or a torch pickle, told apart by content."""

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from flashvsr_trt.errors import WeightsError

SAFETENSORS = "safetensors"
TORCH_ZIP = "torch zip"
TORCH_PICKLE = "torch pickle"

_LFS_POINTER = b"version https://git-lfs"
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def file_format(path: Path) -> str:
    """SAFETENSORS, TORCH_ZIP or TORCH_PICKLE. Raises WeightsError for anything else."""
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise WeightsError(f"cannot read {path}: {error.strerror}") from error
    if not head:
        raise WeightsError(f"{path} is empty (0 bytes): download it again with `flashvsr-trt weights pull`")
    if head.startswith(_LFS_POINTER):
        raise WeightsError(
            f"{path} is a git-lfs pointer, not the weights: run `git lfs pull` in its repository, "
            "or `flashvsr-trt weights pull`"
        )
    if zipfile.is_zipfile(path) or head.startswith(b"PK\x03\x04"):
        return TORCH_ZIP
    if head[8:9] == b"{":
        return SAFETENSORS
    if head.startswith(b"\x80"):
        return TORCH_PICKLE
    raise WeightsError(f"{path} is neither safetensors nor a torch file: it starts with {head[:16]!r}")


def read_tensors(path: Path, bare_key: str | None = None) -> dict[str, torch.Tensor]:
    """Every tensor of a file, on the CPU and memory-mapped where the format allows it.

    A torch file may hold a state dict, or one under the key `state_dict`. With `bare_key`, the file
    holds one tensor, bare or under any key, which is returned under that name.

    Raises WeightsError for a file that is damaged, holds code, or holds anything but tensors.
    """
    kind = file_format(path)
    loaded = _read_safetensors(path) if kind == SAFETENSORS else _read_torch(path, mmap=kind == TORCH_ZIP)
    if isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    if bare_key is not None:
        if isinstance(loaded, Mapping) and len(loaded) == 1:
            (loaded,) = loaded.values()
        loaded = {bare_key: loaded}
    if not isinstance(loaded, Mapping):
        raise WeightsError(f"{path} holds a {type(loaded).__name__}, expected a state dict")
    return {key: _checked(path, key, value) for key, value in loaded.items()}


def read_safetensors_metadata(path: Path) -> dict[str, str]:
    """The metadata entries of a safetensors file; raises WeightsError where it is damaged."""
    with _open_safetensors(path) as file:
        return file.metadata() or {}


def _open_safetensors(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is damaged or incomplete: {error}; download or convert it again"
        ) from error


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    with _open_safetensors(path) as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)


def _read_torch(path: Path, mmap: bool) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} was refused: it is damaged, or a pickle of more than tensors, which can run code"
        ) from error
    except Exception as error:  # A damaged pickle can raise almost anything.
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise WeightsError(f"{path} is damaged or incomplete: {reason}; download it again") from error


def _checked(path: Path, key: object, value: object) -> torch.Tensor:
    if not isinstance(key, str) or not isinstance(value, torch.Tensor):
        raise WeightsError(f"{path} holds a {type(value).__name__} under {key!r}, expected tensors only")
    if value.dtype not in _FLOATS:
        raise WeightsError(
            f"{path} holds {key} as {str(value.dtype).removeprefix('torch.')}: quantised weights cannot be "
            "loaded; use the published files"
        )
    return value.detach()
