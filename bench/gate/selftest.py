"""The gate's own test: each planted fault fails its lines and no others, and nothing at all passes.

    python -m bench.gate.selftest [--fault NAME ...] [--times 20] [--case GLOB ...]

Every fault is planted in a measuring process of this checkout, beside a clean one; --times compares new clean
ones with it. Minutes, so `make test` plants faults in one process, and all but the slow stage.
"""

from collections.abc import Iterable

import click

from bench.gate.cases import GPU, Case, choose, is_here, read_cases, read_thresholds
from bench.gate.compare import compare_trees
from bench.gate.measure import ROOT, Metrics
from bench.gate.trees import Worker
from bench.gate.verdict import Line, Verdict

GOLDEN = ("parity/golden-official", "parity/golden-streaming")

MASK_CLIPS = frozenset(
    f"{case}:{line}" for case in GOLDEN for line in ("mask_bits", "latent_db", "frames_db", "levels")
)

EXPECTED: dict[str, frozenset[str]] = {
    "slow-stage": frozenset({"latency/stages:dit"}),
    "dropped-kernel": frozenset(
        {
            "counts/chunk:calls.conv_relu/onednn",
            "counts/chunk:calls.conv_relu/reference",
            "counts/chunk:operators",
            "memory/chunk:peak_bytes",
        }
    ),
    "host-read": frozenset({"counts/chunk:host_reads"}),
    "mask-bit": MASK_CLIPS,
    "shifted-rope": MASK_CLIPS | {"parity/exported:frames_db", "parity/exported:levels"},
    "lost-frame": frozenset({"parity/golden-official:frames", "parity/tiles:frames"}),
    "doubled-memory": frozenset({"memory/chunk:state_bytes"}),
    "slow-attention": frozenset({"latency/gpu-stages:dit", "latency/gpu-stages:chunk"}),
}
"""Fault -> the lines that must fail."""

TIMED = {"slow-stage": ("latency/stages",), "slow-attention": ("latency/gpu-stages",)}
"""Cases that a fault of time is looked for in, beside all that are counted."""

ON_GPU = ("slow-attention",)


class CleanTree(Worker):
    """Measures what is counted once, since it does not change."""

    def __init__(self, once: Iterable[str]) -> None:
        self.known: dict[str, Metrics] = {}
        self.asked: list[str] = []
        super().__init__(ROOT)
        self.known = {name: self.sample(name) for name in once}

    def renew(self) -> None:
        """A new process: one that has run for long is faster than another that is new."""
        self._end(seconds=60)
        self._start()

    def ask(self, case: str) -> None:
        """See `Worker.ask`."""
        if case in self.known:
            self.asked.append(case)
        else:
            super().ask(case)

    def answer(self) -> Metrics:
        """See `Worker.answer`."""
        return self.known[self.asked.pop()] if self.asked else super().answer()


def failed(lines: Iterable[Line]) -> frozenset[str]:
    """Names of lines that are not as the base's."""
    return frozenset(line.name for line in lines if line.verdict not in (Verdict.PASS, Verdict.NEW))


@click.command()
@click.option("--fault", "faults", multiple=True, type=click.Choice(list(EXPECTED)), help="Only these.")
@click.option("--times", type=int, default=0, help="Plant none: compare this checkout with itself so often.")
@click.option("--case", "patterns", multiple=True, metavar="GLOB", help="Only these.  [default: all]")
def main(faults: tuple[str, ...], times: int, patterns: tuple[str, ...]) -> None:
    """Print a line a fault, or a line a comparison; exit 1 where one fails what it should not."""
    cases, _ = choose(read_cases(ROOT).values(), patterns)
    counted = [case for case in cases if case.kind != "latency"]
    with CleanTree(case.name for case in counted) as clean:
        if times:
            passed = [same_tree(clean, cases) for _ in range(times)]
            click.echo(f"A against A: {sum(passed)} of {times} passed")
            raise SystemExit(sum(passed) < 0.95 * times)
        wrong = 0
        for fault in faults or EXPECTED:
            if fault in ON_GPU and not is_here(GPU):
                click.echo(f"{fault}: left out, for want of a GPU")
                continue
            timed = [case for case in cases if case.name in TIMED.get(fault, ())]
            wrong += not as_expected(clean, fault, [*counted, *timed])
    raise SystemExit(wrong > 0)


def lines_beside(clean: CleanTree, cases: Iterable[Case], fault: str | None = None) -> list[Line]:
    """Of a new measuring process."""
    cases = list(cases)
    if any(case.kind == "latency" for case in cases):
        clean.renew()
    with Worker(ROOT, fault=fault) as other:
        names = [case.name for case in cases]
        return compare_trees(clean, other, cases, names, read_thresholds(ROOT), lambda line: None)


def same_tree(clean: CleanTree, cases: Iterable[Case]) -> bool:
    """Prints what was timed, and what failed; whether nothing did."""
    lines = lines_beside(clean, cases)
    timed = [f"{x.name} {x.ratio.median:.3f} +-{x.ratio.half_width:.3f}" for x in lines if x.ratio]
    click.echo(f"A against A: {', '.join(sorted(failed(lines))) or 'passed'}; {', '.join(timed)}")
    return not failed(lines)


def as_expected(clean: CleanTree, fault: str, cases: Iterable[Case]) -> bool:
    """Prints each line that failed, or should have; whether they are the fault's own."""
    lines = lines_beside(clean, cases, fault)
    measured = {line.case for line in lines}
    found, expected = failed(lines), {name for name in EXPECTED[fault] if name.partition(":")[0] in measured}
    click.echo(f"{fault}: {'as expected' if found == expected else 'NOT as expected'}")
    for line in sorted(lines, key=lambda line: line.name):
        if line.name in found:
            ratio = f", ratio {line.ratio.median:.3f}" if line.ratio else ""
            click.echo(f"  {line.name}: {line.verdict}, {line.base} -> {line.head}{ratio}; {line.why}")
    for name in sorted(expected - found):
        click.echo(f"  {name}: should have failed")
    return found == expected


if __name__ == "__main__":
    main()
