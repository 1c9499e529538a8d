"""Loading the weights of a network, strictly: every key, every shape, one version."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flashvsr_trt.config.presets import NetworkConfig
from flashvsr_trt.errors import WeightsError
from flashvsr_trt.files.folder import remembered, sha256_of_path
from flashvsr_trt.files.targets import refuse_input
from flashvsr_trt.model.state_shapes import (
    FOLDED,
    PARTS,
    PROMPT,
    misfit,
    shapes_of,
    state_shapes,
)
from flashvsr_trt.model.weights.bundle import (
    BundleInfo,
    check_content,
    check_target,
    content_sha256,
    network_differences,
    network_json,
    read_bundle,
    read_bundle_info,
    write_bundle,
)
from flashvsr_trt.model.weights.published import FILES, REPOSITORY, VERSION, is_published
from flashvsr_trt.model.weights.random import random_digest, random_weights
from flashvsr_trt.model.weights.source import (
    RANDOM,
    BundleFile,
    PublishedFiles,
    RandomSeed,
    WeightsSource,
    describe,
    resolve_weights,
)
from flashvsr_trt.model.weights.tensor_files import read_tensors

UNVERIFIED = "unverified"
"""Version of files that are not the published ones and were let through on purpose."""

UNPUBLISHED = "unpublished"
"""Version of files of a network that nobody publishes."""


@dataclass(frozen=True)
class Weights:
    """State dicts under the official key names, on the CPU, by part; the prompt's has the one key `prompt`.

    `source` says in one line where they come from. `version` is "v1.1", RANDOM, UNVERIFIED or UNPUBLISHED.
    `sha256` is, per part, of the file it came from (of the recipe, for random weights), and `content_sha256`
    of its tensors.
    """

    parts: Mapping[str, Mapping[str, torch.Tensor]]
    source: str
    version: str
    sha256: Mapping[str, str]
    content_sha256: Mapping[str, str]

    @property
    def prompt(self) -> torch.Tensor:
        """[1, text_tokens, text_dim]."""
        return self.parts[PROMPT][PROMPT]

    @property
    def fingerprint(self) -> str:
        """For cache keys: 64 hex digits, equal for four files and the bundle that was made of them."""
        lines = "".join(f"{part} {self.content_sha256[part]}\n" for part in PARTS)
        return hashlib.sha256(lines.encode()).hexdigest()


def load_weights(
    source: WeightsSource,
    network: NetworkConfig,
    dtype: torch.dtype | None = None,
    allow_unverified: bool = False,
) -> Weights:
    """Load from a source that `resolve_weights` found.

    Args:
        source: files are memory-mapped, so a tensor is read when it is first used.
        network: the sizes that every key and shape is checked against.
        dtype: cast every tensor but those of FOLDED parts; None keeps each as stored (random weights are
            float32).
        allow_unverified: accept published-size files whose checksums are not those of v1.1.

    Raises:
        WeightsError: naming the missing, unexpected and misshaped keys, the sizes that differ, or the
            files that are not of v1.1.
    """
    match source:
        case PublishedFiles():
            weights = _load_files(source, network, allow_unverified)
        case BundleFile():
            weights = _load_bundle(source, network)
        case RandomSeed(seed):
            weights = _draw(seed, network, dtype or torch.float32)
    return weights if dtype is None else _cast(weights, dtype)


def convert_weights(
    spec: str,
    path: Path,
    network: NetworkConfig,
    prompt: Path | None = None,
    overwrite: bool = False,
    allow_unverified: bool = False,
) -> Weights:
    """Fold what `spec` names (see `resolve_weights`) into the bundle `path`, and return those weights.

    Raises WeightsError as `load_weights` does, and where `path` exists and may not be replaced; UsageError
    where it is one of the files that are folded.
    """
    check_target(path, overwrite)
    source = resolve_weights(spec, network, prompt)
    files = [str(file) for file in vars(source).values() if isinstance(file, Path)]
    refuse_input("the bundle", str(path), files)
    weights = load_weights(source, network, allow_unverified=allow_unverified)
    info = BundleInfo(
        version=weights.version,
        source=describe(source),
        network=network_json(network),
        sha256=dict(weights.sha256),
        content_sha256=dict(weights.content_sha256),
    )
    write_bundle(path, weights.parts, info, overwrite)
    return weights


def _load_files(source: PublishedFiles, network: NetworkConfig, allow_unverified: bool) -> Weights:
    paths = {part: getattr(source, part) for part in PARTS}
    expected = state_shapes(network)
    parts = {}
    for part, path in paths.items():
        parts[part] = read_tensors(path, bare_key=PROMPT if part == PROMPT else None)
        _check_part(str(path), part, parts[part], expected)
    with ThreadPoolExecutor() as pool:
        sha256 = dict(zip(paths, pool.map(sha256_of_path, paths.values()), strict=True))
        content = dict(zip(paths, pool.map(_content_of, paths.values(), parts.values()), strict=True))
    version = _version(paths, sha256, allow_unverified) if is_published(network) else UNPUBLISHED
    return Weights(parts, f"{describe(source)} ({version})", version, sha256, content)


def _load_bundle(source: BundleFile, network: NetworkConfig) -> Weights:
    path = source.path
    info = read_bundle_info(path)
    differing = network_differences(info.network, network_json(network))
    if differing:
        raise WeightsError(f"{path} holds another network: {'; '.join(differing)}; choose its preset")
    parts = read_bundle(path)
    expected = state_shapes(network)
    for part in PARTS:
        _check_part(str(path), part, parts[part], expected)
    check_content(path, parts, info)
    source_line = f"{describe(source)} ({info.version})"
    return Weights(parts, source_line, info.version, info.sha256, info.content_sha256)


def _draw(seed: int, network: NetworkConfig, dtype: torch.dtype) -> Weights:
    parts = random_weights(network, seed, dtype)
    sha256 = {part: random_digest(part, network, seed) for part in PARTS}
    content = {part: content_sha256(tensors) for part, tensors in parts.items()}
    return Weights(parts, describe(RandomSeed(seed)), RANDOM, sha256, content)


def _check_part(
    origin: str, part: str, tensors: Mapping[str, torch.Tensor], expected: Mapping[str, Mapping[str, tuple]]
) -> None:
    """Raise WeightsError unless a part has exactly the keys and shapes of the network."""
    reason = misfit(part, shapes_of(tensors), expected[part])
    if reason:
        raise WeightsError(f"{origin} does not fit the {part}: {reason}")


def _version(paths: Mapping[str, Path], sha256: Mapping[str, str], allow_unverified: bool) -> str:
    other = [paths[part] for part, file in FILES.items() if sha256[part] != file.sha256]
    if not other:
        return VERSION
    if allow_unverified:
        return UNVERIFIED
    mixed = " beside files that are" if len(other) < len(FILES) else ""
    raise WeightsError(
        f"not the published {VERSION} checksum{mixed}: {', '.join(map(str, other))}; v1 has the same shapes "
        f"and does not work with {VERSION}: pull {REPOSITORY}. To use your own files on purpose, fold them "
        "with `flashvsr-trt weights convert --allow-unverified`"
    )


def _content_of(path: Path, tensors: Mapping[str, torch.Tensor]) -> str:
    return remembered(path.stat(), path, "content_sha256 of one part", lambda: content_sha256(tensors))


def _cast(weights: Weights, dtype: torch.dtype) -> Weights:
    parts = {
        part: {key: tensor if part in FOLDED else tensor.to(dtype) for key, tensor in tensors.items()}
        for part, tensors in weights.parts.items()
    }
    return replace(weights, parts=parts)
