"""docs/engines.md has the bindings that the signatures declare."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import COMPUTE, Role, StreamConfig, stage_signatures
from flashvsr_trt.engines.tensorrt_api import channels_last

PAGE = Path(__file__).resolve().parents[2] / "docs/engines.md"

STREAM = StreamConfig(find_preset("sparse-2.0"), Geometry(384, 640, 2), find_schedule("official"))
"""Of the tables in the page."""

SIGNATURES = stage_signatures(STREAM)


def dtype_of(spec):
    return "bfloat16" if spec.dtype == COMPUTE else spec.dtype


def use_of(spec, is_input):
    """What a program binds a tensor to."""
    if spec.becomes:
        kept = re.sub(r"\.\d+$", ".N", spec.becomes.name)
        return f"slots of `{kept}`" if spec.becomes.role is Role.RING else f"`{kept}` of the next run"
    if not is_input:
        readers = [name for name, graph in SIGNATURES.items() for it in graph.inputs if it.name == spec.name]
        return f"for {' and '.join(f'`{name}`' for name in readers)}" if spec.name != "frames" else "result"
    return {
        Role.STATE: "state: zeros before the clip",
        Role.RING: "ring: zeros before the clip",
        Role.INPUT: f"of `{spec.made_by}`" if spec.made_by else "from the host",
    }[spec.role]


def table_of(graph):
    """The page's table of a graph: layers and blocks that are alike have one row."""
    signature = SIGNATURES[graph]
    innermost = channels_last(SimpleNamespace(signatures=SIGNATURES, dtype_of=dtype_of), graph)
    rows = ["| tensor | dtype | shape | axes | bind to |", "| --- | --- | --- | --- | --- |"]
    for arrow, specs in (("in", signature.graph_inputs), ("out", signature.graph_outputs)):
        alike = {}
        for spec in specs:
            alike.setdefault((re.sub(r"\.\d+$", ".N", spec.name), spec.dtype, spec.shape), []).append(spec)
        for (name, _, shape), found in alike.items():
            spec = found[0]
            numbers = [item.name.rpartition(".")[2] for item in found] if name.endswith(".N") else []
            label = f"`{name}`, N = {numbers[0]} to {numbers[-1]}" if numbers else f"`{name}`"
            layout = spec.layout + (", HWC8" if spec.name in innermost else "")
            sides = "x".join(map(str, shape)) or "scalar"
            use = use_of(spec, arrow == "in")
            rows.append(f"| {arrow} {label} | {dtype_of(spec)} | {sides} | {layout} | {use} |")
    return "\n".join(rows)


@pytest.mark.parametrize("graph", SIGNATURES)
def test_the_table_of_a_graph_is_its_signature(graph):
    page = PAGE.read_text(encoding="utf-8")
    section = page.split(f"### `{graph}`\n")[1].split("\n### ")[0].split("\n## ")[0]
    table = "\n".join(line for line in section.splitlines() if line.startswith("|"))
    assert table == table_of(graph)
