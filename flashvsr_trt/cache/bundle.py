"""The bundle of a stream: exported once into the cache, found there by all that decides its content."""

import dataclasses
import glob
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from flashvsr_trt import __version__
from flashvsr_trt.bundle import FORMAT_VERSION, Bundle, read_bundle
from flashvsr_trt.cache.entries import find_or_make
from flashvsr_trt.cache.folder import cache_folder
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import CacheError, WeightsError
from flashvsr_trt.files.folder import sha256_of_path
from flashvsr_trt.imported_sources import sources_digest
from flashvsr_trt.model.weights.source import RANDOM, RandomSeed, WeightsSource, describe, resolve_weights
from flashvsr_trt.notices import Notify

_EXPORTER = "flashvsr_trt.export.export_bundle"
"""What makes a bundle: a change in it, or in a source that it imports, as the network is, makes another."""


def bundle_for(stream: StreamConfig, weights: str | None, precision: str, notify: Notify) -> Bundle:
    """The cached bundle; made, and announced in one line, where there is none. Only making it needs torch.

    Either way the weights are named in one line. A damaged bundle is set aside and made again. Of several
    processes that want one, one makes it and the others wait.

    Raises:
        CacheError: it must be made, and the cache cannot be written.
        WeightsError, BundleError, MissingDependencyError: as finding weights and exporting do.
    """
    source = resolve_weights(weights, stream.preset.network)
    notify(describe(source))
    folder = cache_folder("bundles") / bundle_name(stream, source, precision)

    def read() -> Bundle | None:
        return read_bundle(folder) if os.path.lexists(folder) else None

    def make() -> Bundle:
        from flashvsr_trt.export.export_bundle import export_bundle

        notify(f"exporting {stream.preset.name} into {folder}: once for this size")
        export_bundle(stream, weights, precision, folder, notify=lambda line: None)
        return read_bundle(folder)

    return find_or_make(folder, read, make, notify)


def find_bundle(stream: StreamConfig, weights: str | None, precision: str) -> Bundle | None:
    """The cached bundle, its files' contents unchecked; None where there is none, or no cache.

    Raises:
        WeightsError, BundleError: as finding weights and reading do.
    """
    source = resolve_weights(weights, stream.preset.network)
    request = request_name(stream, precision)
    try:
        root = cache_folder("bundles")
    except CacheError:
        return None
    # Gigabytes of weights are not read where there is no bundle that could be theirs.
    if not any(root.glob(f"{glob.escape(request)}-*")):
        return None
    folder = root / bundle_name(stream, source, precision)
    return read_bundle(folder, verify=False) if os.path.isdir(folder) else None


def weights_bytes(stream: StreamConfig, weights: str | None, precision: str) -> int:
    """Of the cached bundle's weights, or else of those that an export would write, which needs torch.

    Raises:
        WeightsError, BundleError: as finding weights and reading do.
    """
    found = find_bundle(stream, weights, precision)
    if found:
        return found.weights.file.size_bytes
    from flashvsr_trt.export.export_bundle import compute_dtype, parameter_bytes

    return parameter_bytes(stream, compute_dtype(precision))


def bundle_name(stream: StreamConfig, source: WeightsSource, precision: str) -> str:
    """A folder name: `request_name`, then what the weights are, wherever they lie.

    Raises:
        WeightsError: they cannot be read.
    """
    return f"{request_name(stream, precision)}-{_digest(_weights_key(source))}"


def request_name(stream: StreamConfig, precision: str) -> str:
    """All that decides a bundle but its weights: readable in front and exact behind."""
    key = {
        "stream": dataclasses.asdict(stream),
        "precision": precision,
        "versions": [__version__, FORMAT_VERSION],
        "exporter": sources_digest(_EXPORTER),
    }
    height, width = stream.geometry.target
    return f"{stream.preset.name}-{width}x{height}-{stream.schedule.name}-{precision}-{_digest(key)}"


def _weights_key(source: WeightsSource) -> dict[str, str]:
    """A seed, or the sha256 of each file: where a file lies and when it was written says nothing of it."""
    if isinstance(source, RandomSeed):
        return {RANDOM: str(source.seed)}
    files = {name: path for name, path in vars(source).items() if isinstance(path, Path)}
    try:
        return {name: sha256_of_path(path) for name, path in files.items()}
    except OSError as error:
        raise WeightsError(f"the weights {error.filename} cannot be read ({error.strerror})") from error


def _digest(key: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
