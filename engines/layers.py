"""What a builder made of a graph, layer by layer: which kernels run, and which of them only move data.

TensorRT-RTX prints the layers of an engine while it builds it, and needs a GPU to load it; TensorRT's
`EngineInspector` gives the same fields as JSON. Both are kept beside the engine.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashvsr_trt.errors import EngineError
from flashvsr_trt.files.manifest_reader import dump_manifest, manifest_errors, read_manifest, record_of
from flashvsr_trt.files.new import write_text

FORMAT = "flashvsr-trt layers"
FORMAT_VERSION = 1

HEADING = "Layers:\n"
"""How the message of a builder's log begins that lists the layers."""

SYNCHRONISING = ("signal", "wait")
"""Kinds of layers that order streams and touch no tensor."""

MOVEMENTS = frozenset({"Tran", "Resh", "Slic", "Spli", "Conc", "Move", "Cast", "Gath", "Repl"})
"""What the name of a generated kernel says of steps that compute nothing."""

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape."""

_BUILD_AGAIN = "build the engines again with `flashvsr-trt engines build`"

_LINE = re.compile(
    r"Name: (?P<name>\S+), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: .*?"
    r"Outputs: \[(?P<outputs>.*?)\], TacticName: (?P<tactic>[^,]*), .*?Metadata: (?P<onnx>.*)"
)
_TENSOR = re.compile(r"\{ Name: (?P<name>[^,]+), Dimensions: \[(?P<shape>[\d,]*)\]")
_GENERATED = re.compile(r"__myl_(?P<steps>[A-Za-z]+)")


@dataclass(frozen=True)
class Layer:
    """One kernel of an engine.

    Attributes:
        kind: the builder's word: "correlation" is a convolution, "gemm" a product, "kgen" a generated kernel.
        steps: of a generated kernel, the operations it fuses, as far as its name spells them.
        inputs, outputs: tensor name -> shape, without constants.
        nodes: ONNX nodes that it computes.
    """

    name: str
    kind: str
    tactic: str
    steps: tuple[str, ...]
    inputs: Shapes
    outputs: Shapes
    nodes: tuple[str, ...]

    @property
    def copies(self) -> bool:
        """Whether it only moves data or changes its type."""
        return bool(self.steps) and MOVEMENTS.issuperset(self.steps)


def layers_of_log(messages: list[str]) -> tuple[Layer, ...]:
    """The layers that a builder listed in its log, but for what orders streams; () where it listed none."""
    lists = [message for message in messages if message.startswith(HEADING)]
    if not lists:
        return ()
    lines = map(_LINE.match, lists[-1].splitlines())
    return tuple(_logged(line) for line in lines if line and line["kind"] not in SYNCHRONISING)


def layers_of_inspector(text: str) -> tuple[Layer, ...]:
    """The layers of an `EngineInspector`'s JSON, built with detailed verbosity."""
    layers = json.loads(text)["Layers"]
    return tuple(_inspected(layer) for layer in layers if isinstance(layer, dict))


def layers_name(engine: str) -> str:
    """The file beside an engine that lists its layers."""
    return f"{engine}.layers.json"


def write_layers(folder: Path, engine: str, layers: tuple[Layer, ...]) -> None:
    """Write what `read_layers` reads."""
    content = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "layers": [asdict(each) for each in layers],
    }
    write_text(folder / layers_name(engine), dump_manifest(content))


def read_layers(folder: Path, engine: str) -> tuple[Layer, ...]:
    """The layers of an engine. Raises EngineError where they are not there, or were changed."""
    name = layers_name(engine)
    content = read_manifest(folder, name, (FORMAT, FORMAT_VERSION), EngineError, _BUILD_AGAIN)
    with manifest_errors(folder / name, EngineError, _BUILD_AGAIN):
        return record_of(tuple[Layer, ...], content.get("layers"), "layers")


def _logged(line: re.Match[str]) -> Layer:
    inputs, outputs = (dict(_tensors(line[key])) for key in ("inputs", "outputs"))
    return _layer(line["name"], line["kind"], line["tactic"], inputs, outputs, line["onnx"])


def _inspected(layer: Mapping[str, Any]) -> Layer:
    inputs, outputs = (
        {tensor["Name"]: tuple(tensor.get("Dimensions", ())) for tensor in layer.get(key, ())}
        for key in ("Inputs", "Outputs")
    )
    kind, tactic, onnx = (layer.get(key, "") for key in ("LayerType", "TacticName", "Metadata"))
    return _layer(layer["Name"], kind, tactic, inputs, outputs, onnx)


def _layer(name: str, kind: str, tactic: str, inputs: Shapes, outputs: Shapes, onnx: str) -> Layer:
    """A layer, with what its name says of its steps and its metadata of ONNX nodes."""
    generated = _GENERATED.match(name)
    steps = tuple(re.findall("[A-Z][a-z]+", generated["steps"])) if generated else ()
    nodes = tuple(re.findall(r"\[ONNX Layer: ([^\]]*)\]", onnx))
    return Layer(name, kind, tactic, steps, inputs, outputs, nodes)


def _tensors(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    for tensor in _TENSOR.finditer(text):
        yield tensor["name"], tuple(int(size) for size in tensor["shape"].split(",") if size)
