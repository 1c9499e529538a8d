"""The measuring process: a case's name a line on stdin, a JSON line of its metrics each on stdout.

    python -m bench.gate.measure [--fault NAME]

It runs in the tree that it measures, so that a tree's own measures fit its own code. What a case sets up
stays for its next samples. Nothing else may write to stdout: that goes to stderr.
"""

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import click

from bench.gate.cases import Case, read_cases
from flashvsr_trt.signals import ended_by_signals

Metrics = dict[str, float]
Sample = Callable[[], Metrics]

ROOT = Path(__file__).resolve().parents[2]


def open_case(case: Case) -> Sample:
    """Sets a case up, and gives what takes one sample of its metrics."""
    module, _, function = case.measure.partition(".")
    measures = import_module(f"bench.gate.{module}")
    return getattr(measures, function)(preset=case.preset, **case.options)


@click.command()
@click.option("--fault", help="Plant this fault of bench/gate/faults.py first: the gate's own tests do.")
def main(fault: str | None) -> None:
    """Answer until stdin ends."""
    # An editable install would find what this tree does not have in another checkout.
    sys.meta_path[:] = [f for f in sys.meta_path if "flashvsr_trt" not in str(getattr(f, "__module__", ""))]
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    if fault:
        import_module("bench.gate.faults").plant(fault)
    cases, opened = read_cases(ROOT), {}
    # A signal to the gate's whole group ends this process too: what cases made is removed at its exit.
    with ended_by_signals():
        for line in sys.stdin:
            name = line.strip()
            try:
                if name not in opened:
                    opened[name] = open_case(cases[name])
                answer = {"case": name, "metrics": opened[name]()}
            except Exception as error:  # whatever it is, it is the answer, and the next case may do
                answer = {"case": name, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
            print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
