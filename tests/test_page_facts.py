"""Figures and messages in the pages are those of the code."""

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashvsr_trt.config.geometry import Geometry
from flashvsr_trt.config.presets import find_preset, find_schedule
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.memory import GIB, Ring, ring_bytes
from flashvsr_trt.runtime.torch.device_memory import storage_of
from tests.test_rooms import MODULES

DOCS = Path(__file__).resolve().parents[1] / "docs"


def rows(page: str, pattern: str) -> list[list[str]]:
    """The cells of a page's rows that begin with such a cell."""
    found = []
    for line in (DOCS / page).read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")]
        if line.startswith("|") and re.fullmatch(pattern, cells[0]):
            found.append(cells)
    return found


def stream(output: str, preset: str = "sparse-2.0") -> StreamConfig:
    width, height = map(int, output.split("x"))
    return StreamConfig(find_preset(preset), Geometry(height // 2, width // 2, 2), find_schedule("official"))


@pytest.mark.parametrize("row", rows("choosing.md", r"\d+x\d+"), ids=lambda row: row[0])
def test_shares_of_attention(row):
    output, windows, *shares = row
    streams = [stream(output, preset) for preset in ("sparse-2.0", "sparse-1.5")]
    assert int(windows) == streams[0].geometry.unit_windows
    pairs = int(windows) ** 2 * streams[0].preset.attention.ring_slots
    kept = [s.geometry.top_k(s.preset.attention) / pairs for s in streams]
    assert shares == [f"{round(100 * share)} %" for share in (*kept, 1)]


@pytest.mark.parametrize("row", rows("resources.md", r"\d+x\d+"), ids=lambda row: row[0])
def test_sizes_of_rings(row):
    output, plain, scaled = row
    found = stream(output)
    storage = storage_of(found.preset.network, torch.bfloat16)
    bytes_of = [ring_bytes(found, replace(storage, ring=ring)) for ring in (Ring.COMPUTE, Ring.SCALED)]
    assert [plain, scaled] == [f"{taken / GIB:.1f}" for taken in bytes_of]


def texts(tree: ast.AST) -> str:
    """All strings of a module, an f-string with `...` for each value."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = (part.value if isinstance(part, ast.Constant) else "..." for part in node.values)
            found.append("".join(map(str, parts)))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return "\n".join(found)


@pytest.fixture(scope="module")
def all_texts():
    return "\n".join(texts(ast.parse(path.read_text(encoding="utf-8"))) for path in MODULES.values())


MESSAGES = [
    message
    for row in rows("troubleshooting.md", r".*`.*")
    for message in re.findall(r"`([^`]*(?:\.\.\.|;|: | )[^`]*)`", row[0])
    if not message.startswith("--") and "flashvsr-part" not in message
]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_is_one_of_the_code(all_texts, message):
    """Piece by piece: what stands for a value may be more than one in the code."""
    pieces = [piece.strip() for piece in message.split("...") if len(piece.strip()) > 2]
    assert pieces
    assert [piece for piece in pieces if piece not in all_texts] == []


def test_messages_are_found():
    assert len(MESSAGES) > 12
