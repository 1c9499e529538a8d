"""Engines that nothing will ask for again, and what killed builds left behind."""

import time
from pathlib import Path

from flashvsr_trt import __version__
from flashvsr_trt.engines.cache import PART, lowering_hash, needed_kernels
from flashvsr_trt.engines.flavours import FLAVOURS, Target, installed_version
from flashvsr_trt.engines.manifest import EngineSet
from flashvsr_trt.errors import EngineError

ABANDONED_SECONDS = 24 * 3600
"""A build that has written nothing for so long is no longer running."""


def why_stale(engines: EngineSet) -> str | None:
    """Why this release, with the builder that is installed, would build them again; None if it would not."""
    manifest = engines.manifest
    flavour = FLAVOURS[manifest.flavour]
    installed = installed_version(flavour)
    if manifest.key["release"] != __version__:
        return f"built by release {manifest.key['release']}, and this is {__version__}"
    if manifest.key["lowering"] != lowering_hash():
        return "graphs are lowered differently now"
    if installed and installed != manifest.version:
        return f"built by {flavour.title} {manifest.version}, and {installed} is installed"
    target = Target(flavour, manifest.version, manifest.capability, manifest.device)
    try:
        kernels = needed_kernels(engines.bundle, target)
    except EngineError as error:
        return str(error)
    return None if kernels == manifest.kernels else "the kernels' source has changed"


def abandoned_builds(root: Path) -> list[Path]:
    """Folders of builds that were killed."""
    newest = time.time() - ABANDONED_SECONDS
    return [path for path in sorted(root.glob(f"*{PART}*")) if path.stat().st_mtime < newest]
