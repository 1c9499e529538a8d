"""`flashvsr-trt gate`: what a commit costs. Its code is bench/gate, which a wheel does not have."""

import sys
from importlib import import_module
from pathlib import Path

import click

import flashvsr_trt
from flashvsr_trt.errors import MissingDependencyError


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    add_help_option=False,
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def gate(arguments: tuple[str, ...]) -> None:
    """Compare this checkout with another commit: parity, latency, memory, counts."""
    root = Path(flashvsr_trt.__file__).resolve().parents[1]
    if not (root / "bench/gate/command.py").is_file():
        raise MissingDependencyError(
            "flashvsr-trt gate runs in a checkout, and this is an installed package: pip install -e . there"
        )
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    command = import_module("bench.gate.command")
    command.gate.main(arguments, prog_name="flashvsr-trt gate", standalone_mode=False)
