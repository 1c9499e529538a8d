"""Engines that nothing will ask for again."""

from flashvsr_trt import __version__
from flashvsr_trt.engines.cache import lowering_hash, needed_kernels
from flashvsr_trt.engines.flavours import FLAVOURS, Target, installed_version
from flashvsr_trt.engines.manifest import EngineSet
from flashvsr_trt.errors import EngineError


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
