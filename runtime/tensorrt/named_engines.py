"""The engines that `--engines DIR` names: one set, or the best of a folder of sets."""

from collections.abc import Callable
from pathlib import Path

from flashvsr_trt.engines.cache import list_engines
from flashvsr_trt.engines.manifest import MANIFEST, EngineSet, open_engines
from flashvsr_trt.engines.stale import why_stale
from flashvsr_trt.errors import EngineError, FlashVSRError, UsageError
from flashvsr_trt.model.weights.source import RandomSeed, resolve_weights
from flashvsr_trt.notices import Notify

MOST_REASONS = 3
"""Sets of a folder whose refusal is told, where all are refused."""


def find_named_engines(folder: Path, check: Callable[[EngineSet], None], notify: Notify) -> EngineSet:
    """The set in a folder; of a folder of sets, the best one that `check` takes.

    Those that this release would build come first, then those of the default options, then the newest, then
    by name. What is taken is said in one line.

    Args:
        check: raises what is wrong with a set for the run.

    Raises:
        UsageError: no such folder.
        EngineError: nothing in it, or nothing that fits; says why not.
    """
    if not folder.is_dir():
        raise UsageError(f"--engines {folder}: there is no such folder; see `flashvsr-trt engines list`")
    if (folder / MANIFEST).is_file():
        engines = open_engines(folder)
        check(engines)
        return _taken(engines, notify)
    sets = list_engines(folder)
    if not sets:
        raise EngineError(
            f"--engines {folder}: there are no engines in it; build them with "
            f"`flashvsr-trt engines build --engines {folder}`"
        )
    refused = []
    for engines in sorted(sets, key=_order):
        try:
            if isinstance(engines, EngineError):
                raise engines
            check(engines)
        except FlashVSRError as error:
            refused.append(str(error))
            continue
        return _taken(engines, notify)
    more = len(refused) - MOST_REASONS
    reasons = " | ".join(refused[:MOST_REASONS]) + (f" | and {more} more" if more > 0 else "")
    raise EngineError(f"--engines {folder}: of {len(sets)} sets none fits: {reasons}")


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
    options, stale = engines.manifest.key.options, why_stale(engines) is not None
    built = (engines.folder / MANIFEST).stat().st_mtime_ns
    return stale, bool(options.words), -built, engines.folder.name


def _taken(engines: EngineSet, notify: Notify) -> EngineSet:
    stale = why_stale(engines)
    old = f"; they run as they were built, though {stale}" if stale else ""
    weights = engines.bundle.weights.source
    notify(f"engines {engines.folder.name}{said_options(engines)}, of the weights {weights}{old}")
    return engines
