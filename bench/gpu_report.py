"""Everything a GPU can show, in one command: python -m bench.gpu_report [-o DIR].

Runs the tests marked `gpu`, then the kernel benchmark, and writes `gpu_report.json` and `gpu_report.md`.
Ends with status 1 if a test failed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from bench import kernels
from bench.gpu_timing import require_gpu
from bench.kernel_problems import SCENES

FLEX_SCENE = "640x384"
"""Where FlexAttention and the twin are timed too: compiling the one and running the other take long."""


def run_gpu_tests() -> dict:
    """Counts of the tests marked `gpu`, and the names of those that failed."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tests.xml")
        command = [sys.executable, "-m", "pytest", "-m", "gpu", f"--junitxml={path}"]
        subprocess.run(command, check=False)
        suite = ElementTree.parse(path).getroot().find("testsuite")
    failed = [
        f"{case.get('classname')}.{case.get('name')}"
        for case in suite.iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]
    return {"run": int(suite.get("tests")), "skipped": int(suite.get("skipped")), "failed": failed}


def markdown(report: dict) -> str:
    """The report for people."""
    tests = report["tests"]
    failed = "".join(f"\n- failed: `{name}`" for name in tests["failed"])
    return "\n\n".join(
        [
            f"# {report['device']}",
            f"## Tests\n\n{tests['run']} run, {tests['skipped']} skipped, "
            f"{len(tests['failed'])} failed.{failed}",
            f"## Kernels\n\n{kernels.table(report['kernels'])}\n",
        ]
    )


def main() -> None:
    """Runs everything and writes both reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("."), help="directory of the reports")
    options = parser.parse_args()
    report = {
        "device": require_gpu(),
        "tests": run_gpu_tests(),
        "kernels": kernels.measure(list(SCENES), [FLEX_SCENE]),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "gpu_report.json").write_text(json.dumps(report, indent=1) + "\n")
    (options.output / "gpu_report.md").write_text(markdown(report))
    print(markdown(report))
    raise SystemExit(1 if report["tests"]["failed"] else 0)


if __name__ == "__main__":
    main()
