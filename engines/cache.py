"""Finding engines by what they are: a key of everything that would make one wrong names its folder."""

import glob
import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

from flashvsr_trt import __version__
from flashvsr_trt.bundle import Bundle
from flashvsr_trt.cache.entries import is_set_aside
from flashvsr_trt.engines.flavours import FLAVOURS, Target, installed_version
from flashvsr_trt.engines.manifest import FORMAT_VERSION, MANIFEST, EngineKey, EngineSet, open_engines
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.errors import EngineError
from flashvsr_trt.imported_sources import sources_digest
from flashvsr_trt.plugins.op_kernels import OperatorKernels

_DIGEST_CHARACTERS = 32

_BUILDER = "flashvsr_trt.engines.build"
"""What makes an engine of a graph: a change in it, or in a source that it imports, makes another."""


def engine_key(bundle: Bundle, target: Target, options: BuildOptions) -> EngineKey:
    """What the engines of a bundle for a target are told from others by.

    Raises:
        EngineError: no kernels are made for the target and the bundle's precision.
    """
    return EngineKey(
        release=__version__,
        format_version=FORMAT_VERSION,
        lowering=lowering_hash(),
        flavour=target.flavour.name,
        version=target.version,
        capability=target.capability,
        # Only portable engines run on another model of the same capability.
        device=None if target.flavour.portable else target.device,
        graphs={name: file.sha256 for name, file in bundle.graphs.items()},
        weights=bundle.weights.file.sha256,
        precision=bundle.precision,
        options=options,
        kernels=needed_kernels(bundle, target),
    )


def needed_kernels(bundle: Bundle, target: Target) -> dict[str, str]:
    """Kernel name -> source hash, of those that the custom nodes run as; none for dense attention."""
    if bundle.stream.preset.attention.sparse_ratio is None:
        return {}
    return OperatorKernels.of(bundle, target.architecture).hashes()


def lowering_hash() -> str:
    """Of the sources that turn graphs into engines, as imports name them."""
    return sources_digest(_BUILDER)


def why_stale(engines: EngineSet) -> str | None:
    """Why this release, with the builder that is installed, would build them again; None if it would not."""
    manifest = engines.manifest
    flavour = FLAVOURS[manifest.key.flavour]
    installed = installed_version(flavour)
    if manifest.key.release != __version__:
        return f"built by release {manifest.key.release}, and this is {__version__}"
    if manifest.key.lowering != lowering_hash():
        return "graphs are lowered differently now"
    if installed and installed != manifest.key.version:
        return f"built by {flavour.title} {manifest.key.version}, and {installed} is installed"
    target = Target(flavour, manifest.key.version, manifest.key.capability, manifest.device)
    try:
        kernels = needed_kernels(engines.bundle, target)
    except EngineError as error:
        return str(error)
    return None if kernels == manifest.key.kernels else "the kernels' source has changed"


def engine_folder(root: Path, bundle: Bundle, key: EngineKey) -> Path:
    """A folder whose name is readable in front and exact behind."""
    digest = hashlib.sha256(json.dumps(asdict(key), sort_keys=True).encode()).hexdigest()[:_DIGEST_CHARACTERS]
    return root / (_readable_name(bundle, key) + digest)


def _readable_name(bundle: Bundle, key: EngineKey) -> str:
    stream = bundle.stream
    height, width = stream.geometry.target
    return (
        f"{stream.preset.name}-{width}x{height}-{stream.scale_word}-{stream.schedule.name}-"
        f"{bundle.precision}-{key.flavour}-{key.capability}-"
    )


def find_engines(root: Path, bundle: Bundle, key: EngineKey) -> EngineSet | None:
    """The engines of a key, in milliseconds; None where there are none.

    Raises:
        EngineError: they are there and damaged, or not what their name says.
    """
    folder = engine_folder(root, bundle, key)
    if not folder.exists():
        return None
    engines = open_engines(folder)
    if engines.manifest.key != key:
        raise EngineError(f"{folder} holds engines of another key than its name says; build them again")
    return engines


def find_engines_of_any_options(root: Path, bundle: Bundle, key: EngineKey) -> list[EngineSet | EngineError]:
    """Engines of a key, whatever options they were built with: the key's own, then the newest first.

    An error stands in place of those that are damaged. Only names that could be theirs are opened.
    """
    own = engine_folder(root, bundle, key)
    folders = [
        path for path in root.glob(f"{glob.escape(_readable_name(bundle, key))}*") if is_entry(path.name)
    ]
    folders.sort(key=lambda path: (path != own, -built_at(path), path.name))
    return [
        found
        for found in map(_opened, folders)
        if isinstance(found, EngineError) or replace(found.manifest.key, options=key.options) == key
    ]


def _opened(folder: Path) -> EngineSet | EngineError:
    try:
        return open_engines(folder)
    except EngineError as error:
        return error


def built_at(folder: Path) -> int:
    """When a set was finished, in ns; 0 where it has no manifest."""
    try:
        return (folder / MANIFEST).stat().st_mtime_ns
    except OSError:
        return 0


def list_engines(root: Path) -> list[EngineSet | EngineError]:
    """All engines under a folder, by name; an error in place of those that are damaged."""
    folders = [manifest.parent for manifest in sorted(root.glob(f"*/{MANIFEST}"))]
    return [_opened(folder) for folder in folders if is_entry(folder.name)]


def is_entry(name: str) -> bool:
    """Whether a folder is one of engines, and neither unfinished nor set aside."""
    return not name.startswith(".") and not is_set_aside(name)
