"""Which files an ONNX graph keeps tensors in, read from its bytes: a runtime need not have onnx installed.

Only what leads to `TensorProto.external_data` is walked; field numbers are those of onnx.proto3.
"""

from collections.abc import Iterator

from flashvsr_trt.files.folder import BadFileError

NESTING = 32
"""Most graphs and functions inside one another."""

_MESSAGES = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KEY, _VALUE = 1, 2


def external_locations(raw: bytes) -> set[str]:
    """The `location` of every tensor that is kept in another file.

    Raises:
        BadFileError: the bytes are no ONNX graph.
    """
    found: set[str] = set()
    _walk(memoryview(raw), "Model", 0, found)
    return found


def _walk(message: memoryview, kind: str, depth: int, found: set[str]) -> None:
    if depth > NESTING:
        raise BadFileError(f"a graph is nested deeper than {NESTING}")
    inside = _MESSAGES[kind]
    for number, value in _fields(message):
        if number not in inside or value is None:
            continue
        if inside[number] != "Entry":
            _walk(value, inside[number], depth + 1, found)
            continue
        # The last of a repeated field counts, as in every protobuf reader.
        entry = {key: bytes(text or b"") for key, text in _fields(value)}
        if entry.get(_KEY) == b"location":
            found.add(entry.get(_VALUE, b"").decode("utf-8", "replace"))


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | None]]:
    """Field number and, where it has a length, its bytes."""
    at, end = 0, len(message)
    while at < end:
        tag, at = _varint(message, at)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length, at = _varint(message, at)
            yield number, message[at : at + length]
            at += length
        elif wire == _VARINT:
            _, at = _varint(message, at)
            yield number, None
        elif wire in (_FIXED64, _FIXED32):
            at += 8 if wire == _FIXED64 else 4
            yield number, None
        else:
            raise BadFileError(f"it is no ONNX graph: a field of wire type {wire}")
    if at != end:
        raise BadFileError("it is no ONNX graph: it ends inside a field")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(message) or shift > 63:
            raise BadFileError("it is no ONNX graph: a number has no end")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
