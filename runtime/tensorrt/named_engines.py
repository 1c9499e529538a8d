"""The engines that `--engines DIR` names: one set, or the best of a folder of sets."""

from collections.abc import Callable, Iterable
from pathlib import Path

from flashvsr_trt.cache.entries import mark_in_use
from flashvsr_trt.engines.cache import built_at, list_engines, why_stale
from flashvsr_trt.engines.device import Device
from flashvsr_trt.engines.flavours import FLAVOURS, installed_version, supported_version
from flashvsr_trt.engines.manifest import BUILD_AGAIN, MANIFEST, EngineSet, open_engines
from flashvsr_trt.errors import EngineError, FlashVSRError, UsageError
from flashvsr_trt.model.weights.source import RandomSeed, resolve_weights
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.tensorrt.cuda_device import CudaDevice

MOST_REASONS = 3
"""Sets of a folder whose refusal is told, where all are refused."""


def find_named_engines(
    folder: Path, device: Device, flavour: str, check: Callable[[EngineSet], None], notify: Notify
) -> EngineSet:
    """The set in a folder; of a folder of sets, the best one that `check` takes and that the device runs.

    Those that this release would build come first, then those of the default options, then the newest, then
    by name. What is taken is said in one line, and marked as in use.

    Args:
        flavour: theirs, or "auto".
        check: raises what is wrong with a set for the run.

    Raises:
        UsageError: no such folder.
        EngineError: nothing in it, or nothing that fits; says why not.
        MissingDependencyError: the flavour of the one set is not installed.
    """
    if not folder.is_dir():
        raise UsageError(f"--engines {folder}: there is no such folder; see `flashvsr-trt engines list`")

    def check_all(engines: EngineSet) -> None:
        supported_version(FLAVOURS[engines.manifest.key.flavour])
        check_flavour(engines, flavour)
        check(engines)
        check_engines(engines, device)
        engines.check_contents()

    refused: list[FlashVSRError] = []
    if (folder / MANIFEST).is_file():
        found = open_engines(folder)
        check_all(found)
    else:
        sets = list_engines(folder)
        found = first_that_fits(sorted(sets, key=_order), check_all, refused.append)
    if found:
        return _taken(found, notify)
    if not refused:
        raise EngineError(
            f"--engines {folder}: there are no engines in it; build them with "
            f"`flashvsr-trt engines build --engines {folder}`"
        )
    more = len(refused) - MOST_REASONS
    reasons = " | ".join(map(str, refused[:MOST_REASONS])) + (f" | and {more} more" if more > 0 else "")
    raise EngineError(f"--engines {folder}: of {len(refused)} sets none fits: {reasons}")


def first_that_fits(
    sets: Iterable[EngineSet | EngineError],
    check: Callable[[EngineSet], None],
    refuse: Callable[[FlashVSRError], None],
) -> EngineSet | None:
    """The first set that `check` takes; `refuse` is told what is wrong with each before it."""
    for engines in sets:
        try:
            if isinstance(engines, EngineError):
                raise engines
            check(engines)
        except FlashVSRError as error:
            refuse(error)
        else:
            return engines
    return None


def check_engines(engines: EngineSet, device: Device | CudaDevice) -> None:
    """Raise EngineError if engines are for another GPU, or another version than is installed."""
    key, built_on = engines.manifest.key, engines.manifest.device
    flavour = FLAVOURS[key.flavour]
    if key.capability != device.capability:
        raise EngineError(
            f"{engines.folder} holds engines for compute capability {key.capability}, and {device.name} has "
            f"{device.capability}; {BUILD_AGAIN}"
        )
    if not flavour.portable and built_on != device.name:
        raise EngineError(
            f"{engines.folder} holds engines for {built_on}, and this GPU is {device.name}; {BUILD_AGAIN}"
        )
    version = installed_version(flavour)
    if version is not None and version != key.version:
        raise EngineError(
            f"{engines.folder} holds engines of {flavour.title} {key.version}, and {version} is "
            f"installed; {BUILD_AGAIN}"
        )


def check_weights(engines: EngineSet, weights: str | None) -> None:
    """Raise EngineError if engines are of other weights than those that are asked for; None takes theirs.

    Weights of files are read, which needs torch.

    Raises:
        WeightsError: they cannot be found.
    """
    if weights is None:
        return
    bundle = engines.bundle
    network = bundle.stream.preset.network
    source = resolve_weights(weights, network)
    own = bundle.weights
    if isinstance(source, RandomSeed):
        same = own.spec is not None and resolve_weights(own.spec, network) == source
    else:
        from flashvsr_trt.model.weights.load import load_weights

        same = load_weights(source, network).fingerprint == own.fingerprint
    if not same:
        raise EngineError(
            f"{engines.folder} holds engines of the weights {own.source}, and not of {weights}; leave out "
            "--weights to run them, or build others with `flashvsr-trt engines build`"
        )


def check_flavour(engines: EngineSet, flavour: str) -> None:
    """Raise EngineError if engines are of another flavour than the one asked for; "auto" takes theirs."""
    own = engines.manifest.key.flavour
    if flavour not in ("auto", own):
        raise EngineError(f"{engines.folder} holds {own} engines, and not {flavour}; leave out --flavour")


def check_precision(engines: EngineSet, dtype: str) -> None:
    """Raise EngineError if engines compute in another dtype than the one asked for; "auto" takes theirs."""
    own = engines.bundle.compute
    if dtype not in ("auto", own):
        raise EngineError(f"{engines.folder} holds engines in {own}, and not in {dtype}; leave out --dtype")


def said_options(engines: EngineSet) -> str:
    """How engines were built, where not with the default options."""
    words = engines.manifest.key.options.words
    return f", built with {' '.join(words)}" if words else ""


def _order(engines: EngineSet | EngineError) -> tuple:
    if isinstance(engines, EngineError):
        return True, True, 0, ""
    stale, words = why_stale(engines) is not None, engines.manifest.key.options.words
    return stale, bool(words), -built_at(engines.folder), engines.folder.name


def _taken(engines: EngineSet, notify: Notify) -> EngineSet:
    stale = why_stale(engines)
    old = f"; they run as they were built, though {stale}" if stale else ""
    weights = engines.bundle.weights.source
    notify(f"engines {engines.folder.name}{said_options(engines)}, of the weights {weights}{old}")
    mark_in_use(engines.folder)
    return engines
