"""The log of a training run: a JSON line for each step."""

import json
import time
from typing import TextIO

import click
import torch

PARTS = ("total", "level", "gradient", "time", "square")
"""Of the loss, as the log has them."""

READ_TOGETHER = 50
"""Steps whose losses are read from a GPU at once."""

TELL_EVERY = 15
"""Seconds between lines on the terminal."""


class StepLog:
    """A line for each step, written some steps late: reading a loss waits for the GPU."""

    def __init__(self, file: TextIO) -> None:
        self.file = file
        self.lines: list[dict] = []
        self.waiting: list[tuple[dict, torch.Tensor]] = []
        self.told = time.monotonic()

    def add(self, line: dict, parts: torch.Tensor) -> None:
        """`parts` as `optimise` gives them."""
        self.waiting.append((line, parts))
        if len(self.waiting) == READ_TOGETHER or not parts.is_cuda:
            self.flush()

    def flush(self) -> None:
        """Write what waits, and now and then a line on the terminal."""
        if not self.waiting:
            return
        read = torch.stack([parts for _, parts in self.waiting]).tolist()
        for (line, _), values in zip(self.waiting, read, strict=True):
            self.lines.append(line | dict(zip((*PARTS, "gradient_norm"), values, strict=True)))
            self.file.write(json.dumps(self.lines[-1]) + "\n")
        self.waiting.clear()
        if time.monotonic() - self.told > TELL_EVERY:
            self.told = time.monotonic()
            self.file.flush()
            recent = [line["level"] for line in self.lines[-500:]]
            click.echo(
                f"step {self.lines[-1]['step']}  {self.lines[-1]['seconds']:.0f} s  "
                f"level {sum(recent) / len(recent):.5f}"
            )
