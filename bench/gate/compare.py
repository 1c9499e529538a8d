"""Base beside head: the same cases in both trees on one machine, and a line for each metric."""

import statistics
from collections.abc import Collection, Iterable, Mapping

from bench.gate.cases import Case, Threshold
from bench.gate.measure import Metrics
from bench.gate.paired import block_ratio, bootstrap
from bench.gate.trees import MeasureError, Worker
from bench.gate.verdict import Line, Verdict, judge_ratio, line_of, too_wide
from flashvsr_trt.notices import Notify

MORE_BLOCKS = 3
"""How many times the blocks of a case are taken before it is left unmeasured."""


def compare_trees(
    base: Worker,
    head: Worker,
    cases: Iterable[Case],
    known: Collection[str],
    thresholds: Mapping[str, Threshold],
    notify: Notify,
) -> list[Line]:
    """The lines of all cases; those that are not `known` to the base are NEW."""
    lines = []
    for case in cases:
        notify(case.name)
        if case.name not in known:
            lines += new_case(head, case, thresholds)
        elif case.kind == "latency":
            lines += in_turns(base, head, case, thresholds)
        else:
            lines += once(base, head, case, thresholds)
    return lines


def new_case(head: Worker, case: Case, thresholds: Mapping[str, Threshold]) -> list[Line]:
    """What only the head measures; limits hold for it as well."""
    try:
        return lines_of(case, {}, head.sample(case.name), thresholds)
    except MeasureError as error:
        return [_failed(case, {}, str(error))]


def once(base: Worker, head: Worker, case: Case, thresholds: Mapping[str, Threshold]) -> list[Line]:
    """A case that is the same at every time: both trees measure it at once."""
    base.ask(case.name)
    head.ask(case.name)
    answers = _answer(base), _answer(head)
    if any(isinstance(answer, str) for answer in answers):
        return [_failed(case, *answers)]
    return lines_of(case, *answers, thresholds)


def lines_of(case: Case, base: Metrics, head: Metrics, thresholds: Mapping[str, Threshold]) -> list[Line]:
    """A line a metric. What is counted in one tree and not in the other is 0 there."""
    metrics = {**base, **head}
    absent = 0 if case.kind == "counts" and base else None
    return [
        line_of(case, m, base.get(m, absent), head.get(m, absent), thresholds[case.threshold_of(m)])
        for m in metrics
    ]


def in_turns(base: Worker, head: Worker, case: Case, thresholds: Mapping[str, Threshold]) -> list[Line]:
    """A case that takes time: A B B A, B A A B, ... until it is known well enough, or long enough."""
    for worker in (base, head):
        # The first sample sets up.
        worker.ask(case.name)
    first = _answer(base), _answer(head)
    if any(isinstance(answer, str) for answer in first):
        return [_failed(case, *first)]
    samples: dict[str, list[Metrics]] = {"base": [], "head": []}
    lines: list[Line] = []
    for block in range(MORE_BLOCKS * case.blocks):
        order = "ABBA" if block % 2 == 0 else "BAAB"
        for letter in order:
            name, worker = ("base", base) if letter == "A" else ("head", head)
            try:
                samples[name].append(worker.sample(case.name))
            except MeasureError as error:
                answers = ({}, str(error)) if worker is head else (str(error), {})
                return [_failed(case, *answers)]
        if block + 1 >= case.blocks:
            lines = ratio_lines(case, samples["base"], samples["head"], thresholds)
            if not any(line.ratio and too_wide(line.ratio, thresholds[line.threshold]) for line in lines):
                break
    return lines


def ratio_lines(
    case: Case, base: list[Metrics], head: list[Metrics], thresholds: Mapping[str, Threshold]
) -> list[Line]:
    """A line a metric, of samples in blocks of two of each tree."""
    lines = []
    for metric in dict.fromkeys((*base[0], *head[0])):
        threshold = thresholds[case.threshold_of(metric)]
        if metric not in head[0] or metric not in base[0]:
            lines.append(line_of(case, metric, base[0].get(metric), head[0].get(metric), threshold))
            continue
        a, b = ([sample[metric] for sample in samples] for samples in (base, head))
        pairs = zip(zip(a[::2], a[1::2], strict=True), zip(b[::2], b[1::2], strict=True), strict=True)
        ratio = bootstrap([block_ratio(*pair) for pair in pairs])
        lines.append(judge_ratio(case, metric, statistics.median(a), statistics.median(b), ratio, threshold))
    return lines


def lost_cases(known: Iterable[str], head_cases: Collection[str]) -> list[Line]:
    """A line for each case of the base that the head does not have any more."""
    why = "the head does not have this case any more"
    return [Line(name, "*", Verdict.REGRESSION, None, None, why) for name in known if name not in head_cases]


def _answer(worker: Worker) -> Metrics | str:
    try:
        return worker.answer()
    except MeasureError as error:
        return str(error)


def _failed(case: Case, base: Metrics | str, head: Metrics | str) -> Line:
    """A head that fails where the base does not is a regression; else nobody knows."""
    if isinstance(base, str):
        return Line(case.name, "*", Verdict.UNMEASURED, None, None, f"base: {base}")
    return Line(case.name, "*", Verdict.REGRESSION, None, None, f"head: {head}")
