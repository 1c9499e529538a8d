"""The gate: its statistics, its verdicts, its baselines, and the command on this checkout."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from bench.gate import baselines, command, report, trees
from bench.gate.cases import Case, Threshold, choose, read_cases, read_thresholds
from bench.gate.compare import compare_trees, lines_of, lost_cases, ratio_lines
from bench.gate.measure import ROOT
from bench.gate.paired import block_ratio, bootstrap
from bench.gate.selftest import failed
from bench.gate.trees import MeasureError, dependencies, git, python_of
from bench.gate.verdict import FAILURES, Line, Verdict, accepted, overall, raise_failure
from flashvsr_trt.errors import FlashVSRError, UsageError
from tests.cli.command import assert_refused, call, names

CASES, THRESHOLDS = read_cases(ROOT), read_thresholds(ROOT)
STAGES = CASES["latency/stages"]

NOISE = 0.035
"""Standard deviation of a sample's logarithm: what A against A shows on a loaded machine."""

DRIFT = 0.02
"""How much slower the machine gets from block to block."""


def samples(generator: np.random.Generator, slower: float = 1.0) -> tuple[list[dict], list[dict]]:
    """Two trees' samples of the stages, in turns A B B A; the head's DiT is `slower`."""
    seconds = {"encode": 0.03, "dit": 0.03, "decode": 0.27, "chunk": 0.33}
    base, head = [], []
    for place in range(4 * STAGES.blocks):
        noise = {name: np.exp(generator.normal(0, NOISE) + DRIFT * place / 4) for name in seconds}
        mine = place % 4 in ((0, 3) if place // 4 % 2 == 0 else (1, 2))
        factor = {"dit": 1.0 if mine else slower}
        sample = {name: value * noise[name] * factor.get(name, 1.0) for name, value in seconds.items()}
        (base if mine else head).append(sample)
    return base, head


def compared(seed: int, slower: float = 1.0) -> list[Line]:
    return ratio_lines(STAGES, *samples(np.random.default_rng(seed), slower), THRESHOLDS)


def test_noise_alone_passes_19_times_of_20():
    assert sum(not failed(compared(seed)) for seed in range(20)) >= 19


def test_a_stage_that_is_15_percent_slower_fails_alone_19_times_of_20():
    assert sum(failed(compared(seed, 1.15)) == {"latency/stages:dit"} for seed in range(20)) >= 19


def test_an_interval_is_seeded_and_holds_its_median():
    ratios = [1.0, 1.1, 0.9, 1.05, 0.95]
    assert bootstrap(ratios) == bootstrap(ratios)
    assert bootstrap(ratios).low <= bootstrap(ratios).median <= bootstrap(ratios).high
    assert block_ratio((1.0, 3.0), (2.0, 2.0)) == 1.0


LOWER = Threshold("lower", "lower", 0.05, 2.0, "a reason", improbable=0.4)
HIGHER = Threshold("higher", "higher", 0.0, 0.1, "a reason", limit=30.0)
SAME = Threshold("same", "same", 0.0, 0.0, "a reason")


@pytest.mark.parametrize(
    ("threshold", "base", "head", "verdict"),
    [
        (LOWER, 100, 106, Verdict.REGRESSION),
        (LOWER, 100, 104, Verdict.PASS),  # more than 2, and not more than 5 %
        (LOWER, 10, 11.5, Verdict.PASS),  # more than 5 %, and not more than 2
        (LOWER, 100, 70, Verdict.PASS),
        (LOWER, 100, 50, Verdict.SUSPECT),
        (HIGHER, 50.0, 49.8, Verdict.REGRESSION),
        (HIGHER, 50.0, 49.95, Verdict.PASS),
        (HIGHER, 29.9, 29.9, Verdict.REGRESSION),
        (HIGHER, 50.0, 55.0, Verdict.PASS),
        (SAME, 30, 29, Verdict.REGRESSION),
        (SAME, 30, 31, Verdict.REGRESSION),
        (SAME, 30, 30, Verdict.PASS),
    ],
)
def test_a_line_fails_past_both_limits(threshold, base, head, verdict):
    case = Case("memory/x", "", "nano", {"*": threshold.name})
    (line,) = lines_of(case, {"metric": base}, {"metric": head}, {threshold.name: threshold})
    assert line.verdict is verdict


@pytest.mark.parametrize(("slower", "verdict"), [(1.2, "REGRESSION"), (0.5, "SUSPECT"), (1.0, "PASS")])
def test_a_ratio_that_is_sure_gets_its_verdict(slower, verdict):
    lines = {line.metric: line for line in compared(3, slower)}
    assert lines["dit"].verdict == verdict
    assert lines["decode"].verdict is Verdict.PASS


def test_what_cannot_be_told_is_no_pass():
    base, head = [{"dit": 1.0}] * 8, [{"dit": seconds} for seconds in (0.5, 0.5, 2.0, 2.0) * 2]
    (line,) = ratio_lines(STAGES, base, head, THRESHOLDS)
    assert line.verdict is Verdict.UNMEASURED


class StandIn:
    """What `Worker` answers, without a process."""

    def __init__(self, **metrics):
        self.metrics, self.asked = {name.replace("_", "/"): of for name, of in metrics.items()}, []

    def ask(self, case):
        self.asked.append(case)

    def answer(self):
        metrics = self.metrics[self.asked.pop(0)]
        if isinstance(metrics, str):
            raise MeasureError(metrics)
        return metrics

    def sample(self, case):
        self.ask(case)
        return self.answer()


MEASURING = """
import os, sys, time
for case in sys.stdin:
    if case == "dies\\n":
        sys.exit("no memory")
    if case == "hangs\\n":
        time.sleep(3600)
    print('{"case": "%s", "metrics": {"a": 1.0}}' % case.strip(), flush=True)
"""


def test_a_measuring_process_that_dies_or_hangs_fails_one_case_and_not_the_next(tmp_path, monkeypatch):
    monkeypatch.setattr(trees, "ANSWER_SECONDS", 120)
    (tmp_path / "bench/gate").mkdir(parents=True)
    for name, text in {"__init__": "", "gate/__init__": "", "gate/measure": MEASURING}.items():
        (tmp_path / f"bench/{name}.py").write_text(text)
    with trees.Worker(tmp_path) as worker:
        with pytest.raises(MeasureError, match="ended with 1: no memory"):
            worker.sample("dies")
        assert worker.sample("lives") == {"a": 1.0}
        monkeypatch.setattr(trees, "ANSWER_SECONDS", 0.05)
        with pytest.raises(MeasureError, match=r"took more than 0.05 s"):
            worker.sample("hangs")
        monkeypatch.setattr(trees, "ANSWER_SECONDS", 120)
        assert worker.sample("lives") == {"a": 1.0}


PARITY = Case("parity/x", "", "nano", {"*": "near_decibels"})


@pytest.mark.parametrize(
    ("base", "head", "known", "expected"),
    [
        ({"a": 50.0}, {"a": 50.0}, True, {"a": Verdict.PASS}),
        ({"a": 50.0}, {"a": 50.0, "b": 50.0}, True, {"a": Verdict.PASS, "b": Verdict.NEW}),
        ({"a": 50.0, "b": 50.0}, {"a": 50.0}, True, {"a": Verdict.PASS, "b": Verdict.REGRESSION}),
        ({}, {"a": 50.0}, False, {"a": Verdict.NEW}),
        ({}, {"a": 5.0}, False, {"a": Verdict.REGRESSION}),  # beyond the limit, new or not
        ({"a": 50.0}, "it fails", True, {"*": Verdict.REGRESSION}),
        ("it fails", {"a": 50.0}, True, {"*": Verdict.UNMEASURED}),
    ],
)
def test_what_one_tree_lacks(base, head, known, expected):
    trees = StandIn(parity_x=base), StandIn(parity_x=head)
    lines = compare_trees(*trees, [PARITY], ["parity/x"] if known else [], THRESHOLDS, print)
    assert {line.metric: line.verdict for line in lines} == expected


def test_a_case_that_head_lost_fails():
    (line,) = lost_cases(["parity/x"], {})
    assert (line.name, line.verdict) == ("parity/x:*", Verdict.REGRESSION)


def line_of(verdict: Verdict, name: str = "operators") -> Line:
    return Line("counts/chunk", name, verdict, 1.0, 2.0)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_the_exit_code_is_of_the_worst_line(verdict):
    codes = {"REGRESSION": 4, "SUSPECT": 4, "UNMEASURED": 1, "MISMATCH": 6, "CALIBRATION_NEEDED": 5}
    lines = [line_of(Verdict.PASS), line_of(verdict)]
    if verdict not in FAILURES:
        raise_failure(lines)
        assert overall(lines) is Verdict.PASS
        return
    with pytest.raises(FlashVSRError, match=f"{verdict}: counts/chunk:operators") as raised:
        raise_failure(lines)
    assert raised.value.exit_code == codes[verdict]


def test_a_commit_may_accept_a_line_with_a_reason():
    lines = [line_of(Verdict.REGRESSION), line_of(Verdict.REGRESSION, "host_reads"), line_of(Verdict.PASS)]
    made = accepted(lines, {"counts/*:operators": "one add more"})
    assert [line.verdict for line in made] == ["ACCEPTED", "REGRESSION", "PASS"]
    assert made[0].why == "one add more"


@pytest.fixture
def commit(tmp_path, monkeypatch):
    """Makes a commit in a repository of its own, which the command takes for its checkout."""
    who = ("-c", "user.name=A", "-c", "user.email=a@b.c")
    monkeypatch.setattr(command, "ROOT", tmp_path)
    git(tmp_path, "init")
    return lambda message: git(tmp_path, *who, "commit", "--allow-empty", "-m", message)


def test_a_first_commit_has_nothing_to_be_compared_with(commit, capfd):
    commit("First")
    outcome = call(capfd, "gate")
    assert (outcome.code, outcome.err) == (0, "nothing is compared: there is no HEAD^ here\n")


def test_a_shallow_clone_is_told_what_it_lacks(commit, tmp_path, monkeypatch, capfd):
    commit("First")
    commit("Second")
    git(tmp_path, "clone", "--depth", "1", f"file://{tmp_path}", str(tmp_path / "clone"))
    monkeypatch.setattr(command, "ROOT", tmp_path / "clone")
    outcome = call(capfd, "gate")
    assert outcome.code == 0
    assert "no HEAD^ here, for this clone is shallow: git fetch --unshallow" in outcome.err
    assert_refused(call(capfd, "gate", "--base", "HEAD~1"), 2, "git fetch --unshallow")


SETS_UP_FOR_EVER = """
import sys, tempfile, threading
from bench.gate import measure

def open_case(case):
    folder = tempfile.TemporaryDirectory(dir=".")
    print(folder.name, file=sys.stderr, flush=True)
    return lambda: threading.Event().wait() or folder

measure.open_case = open_case
measure.main()
"""


def test_a_signal_to_all_leaves_nothing_of_a_measuring_process(tmp_path):
    run = [sys.executable, "-c", SETS_UP_FOR_EVER]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(run, cwd=tmp_path, env=environment, **pipes) as process:
        print("counts/chunk", file=process.stdin, flush=True)
        assert process.stderr.readline().strip()
        assert len(names(tmp_path)) == 1
        process.terminate()
        process.communicate(timeout=120)
    assert names(tmp_path) == set()


def test_reasons_come_from_the_commits_since_the_base(commit, tmp_path):
    commit("First\n\nGate-accepts: memory/* before the base")
    base = git(tmp_path, "rev-parse", "HEAD")
    commit(
        "Second\n\nWhy.\n\nGate-accepts: counts/chunk:calls.* one kernel now\nGate-accepts: counts/graphs:*"
    )
    assert command.reasons(base) == {
        "counts/chunk:calls.*": "one kernel now",
        "counts/graphs:*": "accepted without a reason",
    }


def test_a_report_says_what_failed_and_folds_the_rest():
    lines = [line_of(Verdict.REGRESSION), line_of(Verdict.PASS, "host_reads"), *compared(0)]
    text = report.markdown(lines, {"base": "abc"}, {"memory/chunk:peak_bytes": [1.0, 2.0]})
    assert text.startswith("## Gate: REGRESSION\n\nbase abc\n\n")
    shown, _, folded = text.partition("<details>")
    assert "| counts/chunk:operators | 1 | 2 | +1 | **REGRESSION** |" in shown
    assert "latency/stages:dit" in shown
    assert "host_reads" in folded
    assert "| memory/chunk:peak_bytes | 1 -> 2 |" in shown
    assert json.loads(json.dumps(report.as_json(lines, {}, {})))["verdict"] == "REGRESSION"


PRINT = {"device": "A GPU", "driver": "1", "cuda": "13.0", "python": "3.12", "preset": "nano", "torch": "2"}


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Writes a record of a value of memory/chunk; `check` and the fingerprint's fields are beside it."""
    fields = dict(PRINT)
    monkeypatch.setattr(baselines, "fingerprint", lambda preset: dict(fields))
    path = baselines.baseline_path(tmp_path, fields)

    def record(value):
        baselines.add_record(path, PRINT, "abc", {"memory/chunk": {"peak_bytes": value}})

    def check(value):
        worker = StandIn(memory_chunk={"peak_bytes": value})
        return baselines.check(tmp_path, worker, [CASES["memory/chunk"]], THRESHOLDS)

    return record, check, fields


def test_a_baseline_is_the_median_of_the_last_five(recorded):
    record, check, _ = recorded
    for value in (9e9, 1e9, 1.1e9, 5e9, 1e9, 1e9):
        record(value)
    (line,) = check(1.01e9)
    assert (line.base, line.verdict) == (1e9, Verdict.PASS)
    assert overall(check(1.1e9)) is Verdict.REGRESSION


def test_few_records_and_other_machines_are_no_baseline(recorded):
    record, check, fields = recorded
    record(1e9)
    assert overall(check(1e9)) is Verdict.CALIBRATION_NEEDED
    fields["driver"] = "2"
    (line,) = check(1e9)
    assert (line.verdict, line.why) == (Verdict.MISMATCH, "driver: 2 here, 1 in the records")


@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.name)
def test_a_case_names_a_measure_and_thresholds_that_are_there(case):
    module, _, function = case.measure.partition(".")
    assert callable(getattr(import_module(f"bench.gate.{module}"), function))
    assert set(case.lines.values()) <= THRESHOLDS.keys()


def test_every_threshold_is_some_line_s():
    assert {name for case in CASES.values() for name in case.lines.values()} == THRESHOLDS.keys()


def test_cases_are_chosen_by_pattern_and_those_whose_needs_are_not_here_left_out():
    chosen, lacking = choose(CASES.values(), ["memory/*"], has=lambda need: need != "gpu")
    assert ([c.name for c in chosen], lacking) == (["memory/chunk"], {"gpu": ["memory/gpu-chunk"]})
    _, lacking = choose(CASES.values(), ["parity/*"], has=lambda need: need == "onnxscript")
    assert lacking["onnxruntime"] == ["parity/exported"]
    assert choose(CASES.values(), ["memory/*"], has=bool)[1] == {}
    with pytest.raises(UsageError, match="fits none of"):
        choose(CASES.values(), ["speed/*"], has=bool)


def test_a_metric_without_a_threshold_is_refused():
    with pytest.raises(UsageError, match="no threshold"):
        replace(PARITY, lines={}).threshold_of("a")


def project(folder: Path, needs: str, extra: str = "") -> Path:
    folder.mkdir()
    text = f'[project]\nname = "x"\ndependencies = [{needs}]\n[project.optional-dependencies]\n{extra}\n'
    (folder / "pyproject.toml").write_text(text)
    return folder


def test_the_base_runs_in_this_python_unless_it_asks_for_what_this_lacks(tmp_path, monkeypatch):
    head = project(tmp_path / "head", '"b>=1", "numpy>=2"', 'cpu = ["a"]\ndev = ["ruff"]')
    assert dependencies(head) == ["a", "b>=1", "numpy>=2"]
    for needs in ('"b>=1"', '"b>=1", "numpy>=1.20"', '"b>=1", "c>1; python_version < \'3\'"'):
        base = project(tmp_path / f"base-{len(needs)}", needs, 'cpu = ["a"]')
        assert python_of(base, head, pytest.fail) == sys.executable
    said, ran = [], []
    older = project(tmp_path / "older", '"b>=1", "numpy"')
    (older / "constraints.txt").write_text("# pinned\nnumpy==1.20.0\nd==2\n")
    monkeypatch.setattr(subprocess, "run", lambda command, **_: ran.append(command) or Mock(returncode=0))
    monkeypatch.setattr(Path, "touch", lambda path: said.append(path.name))
    python = python_of(older, head, said.append)
    assert python.startswith(str(head / "build/gate-"))
    assert ran[1] == [python, "-m", "pip", "install", "--quiet", "b>=1", "numpy", "numpy==1.20.0"]
    assert said[0].startswith("the base has other dependencies")


IN_GIT = git(ROOT, "rev-parse", "HEAD^{commit}") is not None


@pytest.mark.skipif(not IN_GIT, reason="this copy of the tree has no history")
def test_the_command_compares_a_commit_with_itself(capfd, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    json_file, markdown = tmp_path / "gate.json", tmp_path / "gate.md"
    case = "counts/cli-start"
    options = ("--base", "HEAD", "--case", case, "--json", json_file, "--markdown", markdown)
    outcome = call(capfd, "gate", *options)
    written = json.loads(json_file.read_text())
    assert {line["case"] for line in written["lines"]} == {case}
    # A tree with changes may well differ from its commit: then the command says so.
    assert (outcome.code == 0) == (written["verdict"] == "PASS"), outcome.err
    assert markdown.read_text().startswith(f"## Gate: {written['verdict']}")
    assert str(tmp_path) not in git(ROOT, "worktree", "list", "--porcelain")
    assert names(tmp_path) == {"gate.json", "gate.md"}
    assert_refused(call(capfd, "gate", *options), 2, "--overwrite")


def test_a_base_is_a_commit_or_the_folder_of_a_checkout(capfd, tmp_path):
    for other in ("no-such-commit", tmp_path):
        assert_refused(call(capfd, "gate", "--base", other), 2, str(other))
    outcome = call(capfd, "gate", "--base", ROOT, "--case", "counts/cli-start")
    assert (outcome.code, outcome.err.splitlines()[-1]) == (0, "gate: PASS")
