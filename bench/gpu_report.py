"""Everything a GPU can show, in one command: python -m bench.gpu_report [-o DIR] [--dry-run].

Runs the tests marked `gpu`, the benchmarks of kernels and pipeline, and the comparison with float32. Writes
`gpu_report.json` and `gpu_report.md` anew after each. Ends with status 1 if a test failed, or none ran.
--dry-run needs no GPU: it imports all that would run and prints the plan.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import click

from bench import accuracy, kernels, pipeline
from bench.environment import ROOT, environment
from bench.gpu_timing import require_gpu
from bench.kernel_problems import SCENES
from flashvsr_trt.config.presets import DEFAULT_PRESET

FLEX_SCENE = "640x384"
"""Where FlexAttention and the twin are timed too: compiling the one and running the other take long."""

ACCURACY_SCENE, ACCURACY_CHUNKS = "704x384", 10
"""Where bfloat16 is compared with float32, and for how long: the float32 twins take most of the time."""

GPU_TESTS = (sys.executable, "-m", "pytest", "-m", "gpu")


def run_gpu_tests() -> dict:
    """Counts of the tests marked `gpu`, and the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tests.xml")
        subprocess.run([*GPU_TESTS, f"--junitxml={path}"], cwd=ROOT, check=False)
        suite = ElementTree.parse(path).getroot().find("testsuite")
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return {"run": int(suite.get("tests")), "skipped": int(suite.get("skipped")), "failed": failed}


def collect_gpu_tests() -> list[str]:
    """The tests marked `gpu`, by name. Raises RuntimeError where a test file cannot be imported."""
    command = [*GPU_TESTS, "--collect-only", "-qq", "--no-header"]
    outcome = subprocess.run(
        [*command, "-o", "addopts="], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if outcome.returncode:
        raise RuntimeError(f"the GPU tests cannot be collected:\n{outcome.stdout}{outcome.stderr}")
    return [line for line in outcome.stdout.splitlines() if line.strip()]


def environment_lines(made_with: dict) -> str:
    """The environment as a Markdown list."""
    packages = ", ".join(f"{name} {version}" for name, version in made_with["packages"].items())
    facts = {
        "driver": made_with["driver"],
        "CUDA": made_with["cuda"],
        "Python": made_with["python"],
        "packages": packages,
        "commit": made_with["commit"],
    }
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def tests_section(tests: dict) -> str:
    """Counts, and a line for each test that failed."""
    failed = "".join(f"\n- failed: `{name}`" for name in tests["failed"])
    counts = f"{tests['run']} run, {tests['skipped']} skipped, {len(tests['failed'])} failed."
    return f"## Tests\n\n{counts}{failed}"


def pipeline_section(report: dict) -> str:
    """Times, and the work they are compared with."""
    times, work = pipeline.timing_table(report), pipeline.plan_table(report["plans"])
    return f"## Pipeline\n\n{times}\n\n### Work\n\n{work}"


def kernels_section(report: dict) -> str:
    """The kernels' table."""
    return f"## Kernels\n\n{kernels.table(report)}"


def accuracy_section(report: dict) -> str:
    """The chunks' table."""
    return f"## Accuracy\n\n{accuracy.table(report)}"


SECTIONS = {
    "tests": tests_section,
    "kernels": kernels_section,
    "pipeline": pipeline_section,
    "accuracy": accuracy_section,
}

PARTS: dict[str, Callable[[], dict]] = {
    "tests": run_gpu_tests,
    "kernels": lambda: kernels.measure(list(SCENES), [FLEX_SCENE]),
    "pipeline": lambda: pipeline.measure(SCENES),
    "accuracy": lambda: accuracy.measure(ACCURACY_SCENE, DEFAULT_PRESET, ACCURACY_CHUNKS),
}


def markdown(report: dict) -> str:
    """The parts that the report has, for people."""
    made_with = report["environment"]
    sections = [section(report[part]) for part, section in SECTIONS.items() if part in report]
    return "\n\n".join([f"# {made_with['device']}", environment_lines(made_with), *sections]) + "\n"


def write_report(report: dict, output: Path) -> None:
    """Both files, as far as the report has come."""
    (output / "gpu_report.json").write_text(json.dumps(report, indent=1) + "\n")
    (output / "gpu_report.md").write_text(markdown(report))


def dry_run() -> None:
    """What would run, and that all of it can be imported."""
    click.echo(environment_lines(environment()))
    click.echo("\nTests marked gpu:")
    for line in collect_gpu_tests():
        click.echo(f"  {line}")
    click.echo(f"\nbench.kernels on LR frames: {', '.join(SCENES)}; FlexAttention at {FLEX_SCENE}")
    click.echo(f"\nbench.accuracy on LR frame {ACCURACY_SCENE}, {ACCURACY_CHUNKS} chunks")
    click.echo(f"\nbench.pipeline with {DEFAULT_PRESET}, CUDA graphs off and on:\n")
    click.echo(pipeline.plan_table(asdict(pipeline.plan(scene, DEFAULT_PRESET)) for scene in SCENES))


@click.command()
@click.option("-o", "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("."))
@click.option("--only", multiple=True, type=click.Choice(list(PARTS)), help="Part to run.  [default: all]")
@click.option("--dry-run", "only_plan", is_flag=True, help="Import everything and print the plan.")
def main(output: Path, only: tuple[str, ...], only_plan: bool) -> None:
    """Run everything and write both reports."""
    if only_plan:
        dry_run()
        return
    require_gpu()
    output.mkdir(parents=True, exist_ok=True)
    report = {"environment": environment()}
    for part in only or PARTS:
        report[part] = PARTS[part]()
        write_report(report, output)
    click.echo(markdown(report))
    tests = report.get("tests")
    raise SystemExit(1 if tests and (tests["failed"] or tests["skipped"] == tests["run"]) else 0)


if __name__ == "__main__":
    main()
