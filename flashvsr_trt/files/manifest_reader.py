"""The one reader of JSON manifests: a file of bounded size to typed records, or one error.

A manifest comes from anywhere. It is capped before it is read; numbers are finite and of 64 bits; keys are
there once, are all known and none is missing; every value has its declared type. The file carries the
sha256 of its own bytes, so that a changed byte is noticed. That is no signature: who writes a manifest can
write its sha256 too.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from flashvsr_trt.errors import FlashVSRError
from flashvsr_trt.files.folder import BadFileError, BadNameError, read_file

MANIFEST_BYTES = 8 << 20
"""The largest manifest that is read. The largest network's engines have one of 1 MB."""

NESTING = 64
"""Most lists and objects inside one another."""

INTEGER_LIMIT = 2**63

DIGEST = "sha256"
"""The last key: of the file's bytes, with zeros in place of itself."""

_NO_DIGEST = "0" * 64

Record = TypeVar("Record")


class BadManifestError(ValueError):
    """What is wrong with a manifest's content, to be said with its path."""


def dump_manifest(content: Mapping[str, Any]) -> str:
    """The text of a manifest, with its sha256."""
    text = json.dumps(dict(content) | {DIGEST: _NO_DIGEST}, indent=1) + "\n"
    before, _, after = text.rpartition(_NO_DIGEST)
    return before + hashlib.sha256(text.encode()).hexdigest() + after


def read_manifest(
    folder: Path, name: str, kind: tuple[str, int], error: type[FlashVSRError], remedy: str
) -> dict[str, Any]:
    """The content of a manifest, without format and sha256.

    Args:
        kind: its `format` and `format_version`.
        error: what is raised.
        remedy: what the user does about it.

    Raises:
        `error`: it cannot be read, is too large, is no JSON object, of another kind, or was changed.
    """
    path = folder / name
    try:
        raw = read_file(folder, name, MANIFEST_BYTES)
        stored = parse_object(raw)
        if stored.get("format") != kind[0]:
            raise error(f"{path} is not the manifest of a {kind[0]}: {remedy}")
        if stored.get("format_version") != kind[1]:
            raise error(
                f"{path} is of format version {stored.get('format_version')!r:.40}, and this release reads "
                f"{kind[1]}: {remedy}"
            )
        _check_digest(raw, stored.get(DIGEST))
    except FileNotFoundError as cause:
        raise error(f"{folder} has no {name}: {remedy}") from cause
    except OSError as cause:
        raise error(f"{path} cannot be read ({cause.strerror or cause}): {remedy}") from cause
    except (BadManifestError, BadFileError) as fault:
        raise error(f"{path} is damaged ({fault}): {remedy}") from fault
    return {key: stored[key] for key in stored if key not in ("format", "format_version", DIGEST)}


@contextmanager
def manifest_errors(path: Path, error: type[FlashVSRError], remedy: str) -> Iterator[None]:
    """Turns what is wrong with a manifest, or with a file that it names, into an error of this kind."""
    try:
        yield
    except BadFileError as fault:
        raise error(f"{fault}: {remedy}") from fault
    except (BadManifestError, BadNameError) as fault:
        raise error(f"{path} is damaged ({fault}): {remedy}") from fault


def parse_object(raw: bytes) -> dict[str, Any]:
    """A JSON object. Raises BadManifestError for anything else."""
    try:
        _check_nesting(raw)
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=_object_of,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_number,
        )
    except (ValueError, RecursionError) as error:
        raise BadManifestError(f"{error}"[:200]) from error
    if not isinstance(value, dict):
        raise BadManifestError("it holds no object")
    return value


def record_of(kind: type[Record], value: Any, where: str = "it") -> Record:
    """A value of a declared type: a dataclass of its fields, tuples, mappings, or a plain value.

    Raises:
        BadManifestError: saying where and what it is not, or what the dataclass itself refuses.
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass_of(kind, value, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _union_of(arguments, value, where)
    if origin is tuple:
        return _tuple_of(arguments, value, where)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise BadManifestError(f"{where} is no object")
        found: Any = {
            key: record_of(arguments[1], item, f"{where}.{key}"[:200]) for key, item in value.items()
        }
        return found
    if kind is Any:
        return value
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise BadManifestError(f"{where} is {value!r:.60}, and no {kind.__name__}")
    return value


def _dataclass_of(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise BadManifestError(f"{where} is no object")
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    for name in sorted(value.keys() ^ set(names)):
        raise BadManifestError(f"{where} has {name!r:.60} too many or too few")
    fields = {name: record_of(hints[name], value[name], f"{where}.{name}") for name in names}
    try:
        return kind(**fields)
    except (FlashVSRError, ArithmeticError) as error:
        raise BadManifestError(f"{where}: {error}") from error


def _union_of(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    faults = []
    for argument in arguments:
        if argument is type(None):
            if value is None:
                return None
            continue
        try:
            return record_of(argument, value, where)
        except BadManifestError as fault:
            faults.append(fault)
    raise faults[0]


def _tuple_of(arguments: tuple[Any, ...], value: Any, where: str) -> tuple:
    if not isinstance(value, list):
        raise BadManifestError(f"{where} is no list")
    if arguments[-1] is Ellipsis:
        arguments = (arguments[0],) * len(value)
    if len(arguments) != len(value):
        raise BadManifestError(f"{where} has {len(value)} values, and {len(arguments)} are wanted")
    pairs = zip(arguments, value, strict=True)
    return tuple(record_of(kind, item, f"{where}[{place}]") for place, (kind, item) in enumerate(pairs))


def _check_digest(raw: bytes, digest: Any) -> None:
    """The digest is the last thing in the file, so its last occurrence is it."""
    if not isinstance(digest, str) or len(digest) != len(_NO_DIGEST):
        raise BadManifestError("it has no sha256 of itself")
    before, found, after = raw.rpartition(digest.encode())
    blank = before + _NO_DIGEST.encode() + after
    if not found or hashlib.sha256(blank).hexdigest() != digest:
        raise BadManifestError("it was changed: its sha256 is another")


def _check_nesting(raw: bytes) -> None:
    """Before it is parsed: the parser itself recurses. Brackets in strings are not told apart."""
    depth = deepest = 0
    for byte in raw.translate(None, delete=_NO_BRACKETS):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
        if deepest > NESTING:
            raise BadManifestError(f"it is nested deeper than {NESTING}")


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BadManifestError("a key is there twice")
    return made


def _integer(text: str) -> int:
    if len(text) > 20 or not -INTEGER_LIMIT <= int(text) < INTEGER_LIMIT:
        raise BadManifestError(f"the number {text[:20]} is too large")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadManifestError(f"{text[:20]} is no number, or too large")
    return value
