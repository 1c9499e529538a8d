"""Where weights come from: published files, a bundle, the package or a seed. Only names are read here."""

import os
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from flashvsr_trt.config.presets import PRESETS, NetworkConfig
from flashvsr_trt.errors import WeightsError
from flashvsr_trt.model.weights.published import (
    FILES,
    NETWORK_FILES,
    PROMPT_FILE,
    PROMPT_URL,
    REPOSITORY,
    is_published,
)

WEIGHTS_VARIABLE = "FLASHVSR_WEIGHTS"
PROMPT_VARIABLE = "FLASHVSR_PROMPT"

RANDOM = "random"

_REMEDY = "run `flashvsr-trt weights pull`, or try the toolchain with --weights random"


@dataclass(frozen=True)
class PublishedFiles:
    """The four published files, wherever each was found (model.md section 1)."""

    projector: Path
    dit: Path
    decoder: Path
    prompt: Path


@dataclass(frozen=True)
class BundleFile:
    """One safetensors file written by `flashvsr-trt weights convert`; `packaged`: the one of the package."""

    path: Path
    packaged: bool = False


@dataclass(frozen=True)
class RandomSeed:
    """Seeded weights of the right shapes: they exercise the toolchain and restore nothing."""

    seed: int


WeightsSource = PublishedFiles | BundleFile | RandomSeed


def describe(source: WeightsSource) -> str:
    """One line for the user: what will be loaded."""
    match source:
        case PublishedFiles(dit=dit):
            return f"published files in {dit.parent}"
        case BundleFile(path, packaged=True):
            return f"the package's own weights ({path}): trained small, to show the toolchain at work"
        case BundleFile(path):
            return f"bundle {path}"
        case RandomSeed(seed):
            return f"random weights (seed {seed}): they show that the toolchain runs, and restore nothing"


def resolve_weights(spec: str | None, network: NetworkConfig, prompt: Path | None = None) -> WeightsSource:
    """Find the weights of `network`.

    `spec` is a directory of published files, a bundle, or "random[:SEED]". None means, where the network is
    published, the environment variable FLASHVSR_WEIGHTS, read as a spec, else the Hugging Face cache; where
    it is not, the package's own file, else RandomSeed(0). `prompt` overrides where the prompt file is
    looked for.

    Raises WeightsError that says what was tried and what to do.
    """
    if spec is None and not is_published(network):
        # The environment names weights of the published network: they would not fit this one.
        path = packaged_weights(network)
        return BundleFile(path, packaged=True) if path else RandomSeed(0)
    spec = spec or os.environ.get(WEIGHTS_VARIABLE)
    if not spec:
        return _cached_files(prompt)
    if spec == RANDOM or spec.startswith(f"{RANDOM}:"):
        return RandomSeed(_seed(spec))
    path = Path(spec).expanduser()
    if path.is_dir():
        return _files_in(path, prompt)
    if not path.exists():
        raise WeightsError(f"no weights at {path}: it does not exist; {_REMEDY}")
    if path.name in {file.name for file in FILES.values()}:
        raise WeightsError(
            f"{path} is one of {len(FILES)} published files: give their directory, {path.parent}"
        )
    return BundleFile(path)


def packaged_weights(network: NetworkConfig) -> Path | None:
    """The file of this network's weights in the package; None where it has none.

    Raises WeightsError if the file is not there.
    """
    names = [preset.packaged_weights for preset in PRESETS if preset.network == network]
    name = next(filter(None, names), None)
    if name is None:
        return None
    path = Path(__file__).with_name(name)
    if not path.is_file():
        raise WeightsError(f"the package lacks its own {path}: install it again, or try --weights random")
    return path


def prompt_cache() -> Path:
    """Where `weights pull` keeps the prompt when the networks go to the Hugging Face cache."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "flashvsr-trt" / PROMPT_FILE.name


def _files_in(directory: Path, prompt: Path | None) -> PublishedFiles:
    paths = {file.part: directory / file.name for file in NETWORK_FILES}
    missing = [path.name for path in paths.values() if not path.is_file()]
    if missing:
        raise WeightsError(
            f"{directory} lacks {', '.join(missing)}: run `flashvsr-trt weights pull -o {directory}`"
        )
    # The official checkout keeps the prompt in a sibling of the weights' directory.
    beside = (directory / PROMPT_FILE.name, directory.parent / "prompt_tensor" / PROMPT_FILE.name)
    return PublishedFiles(**paths, prompt=_find_prompt(prompt, beside))


def _cached_files(prompt: Path | None) -> PublishedFiles:
    answers = {file.part: try_to_load_from_cache(REPOSITORY, file.name) for file in NETWORK_FILES}
    # The cache answers a path, None, or a marker that the file is known to be absent.
    found = {part: Path(answer) for part, answer in answers.items() if isinstance(answer, str)}
    missing = [file.name for file in NETWORK_FILES if file.part not in found]
    if missing:
        raise WeightsError(
            f"no weights: --weights is not given, {WEIGHTS_VARIABLE} is not set, and the Hugging Face cache "
            f"of {REPOSITORY} lacks {', '.join(missing)}; {_REMEDY}"
        )
    return PublishedFiles(**found, prompt=_find_prompt(prompt, ()))


def _find_prompt(prompt: Path | None, beside: tuple[Path, ...]) -> Path:
    chosen = prompt or os.environ.get(PROMPT_VARIABLE)
    tried = (Path(chosen).expanduser(),) if chosen else (*beside, prompt_cache())
    for path in tried:
        if path.is_file():
            return path
    raise WeightsError(
        f"no prompt: {' and '.join(map(str, tried))} {'does' if len(tried) == 1 else 'do'} not exist; "
        f"`flashvsr-trt weights pull` fetches it, or save {PROMPT_URL} there, or set {PROMPT_VARIABLE}"
    )


def _seed(spec: str) -> int:
    text = spec.removeprefix(RANDOM).removeprefix(":") or "0"
    if not text.isdecimal():
        raise WeightsError(f"--weights {spec}: the seed '{text}' is not a whole number; write random:7")
    return int(text)
