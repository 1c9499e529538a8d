"""The cache of photographs: pictures of bounded size, and a manifest that says where each is from."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

MANIFEST = "manifest.json"
TRAIN, HELD_OUT = "train", "held-out"
HELD_OUT_SHARE = 5
"""One picture in so many is held out."""


@dataclass(frozen=True)
class PictureSource:
    """One picture of the cache: its file there, and the package, version, path and licence it is from."""

    file: str
    package: str
    version: str
    path: str
    licence: str
    split: str


def split_of(package: str, path: str) -> str:
    """TRAIN or HELD_OUT by a hash of the name: adding pictures moves no other."""
    digest = hashlib.sha256(f"{package}/{Path(path).name}".encode()).digest()
    return HELD_OUT if digest[0] % HELD_OUT_SHARE == 0 else TRAIN


def write_manifest(folder: Path, sources: list[PictureSource]) -> None:
    """Write the manifest of a complete cache."""
    rows = [vars(source) for source in sources]
    (folder / MANIFEST).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n")


def read_manifest(folder: Path) -> list[PictureSource]:
    """Raises FileNotFoundError where `python -m training.fetch` has not made the cache."""
    return [PictureSource(**row) for row in json.loads((folder / MANIFEST).read_text())]


def load_pictures(folder: Path, split: str) -> list[np.ndarray]:
    """The pictures of one split, uint8 [H, W, 3], in the manifest's order."""
    chosen = [source for source in read_manifest(folder) if source.split == split]
    return [np.asarray(Image.open(folder / source.file).convert("RGB")) for source in chosen]
