"""Nothing that a user can cause ends in a traceback, and each kind says what was wrong."""

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashvsr_trt.cli import main as cli
from flashvsr_trt.cli import options
from flashvsr_trt.errors import EXTRAS
from flashvsr_trt.extras import install_command
from tests.cli.command import ROOT, assert_refused, call, names
from tests.clips import make_clip

NANO = ("--preset", "nano", "--backend", "torch")
HUGE = str(10**30)


@pytest.fixture
def clip(tmp_path):
    return make_clip(tmp_path / "clip.mp4", frames=2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[(name, value) for name in ("--start", "--frames") for value in (HUGE, "-1", "x", "1.5", "nan")],
        *[("--threads", value) for value in (HUGE, "-1", "1025")],
        *[("--seed", value) for value in (HUGE, "-1")],
        *[("--gpus", value) for value in ("0", "-2", HUGE)],
        *[("--crf", value) for value in ("nan", "inf", "-inf", "1e999", "52", "-1", "²")],
        *[("--rate", value) for value in ("1e999", "nan", "inf", "0", "-3", "1/0", "²", "1e9999999", HUGE)],
        *[("--raw-size", value) for value in ("²x²", "99999999x99999999", "0x0", "-1x5", "x", "1x", "٣x٣")],
        *[("--encoder-option", value) for value in ("=", "=3", "fast")],
        *[("--device", value) for value in ("cuda:x", "cuda:-1", "", "cuda:99999999999999999999", "cpu:7x")],
        *[("--weights", value) for value in ("random:x", "random:-1", "/dev/null", "\n")],
        *[("--raw-format", "nosuch"), ("--pix-fmt", "nosuch"), ("--codec", "aac")],
    ],
)
def test_a_value_that_cannot_be_used(clip, tmp_path, capfd, option, value):
    more = ("--raw-size", "64x48") if option == "--raw-format" else ()
    outcome = call(capfd, "run", clip, *NANO, *more, option, value)
    assert outcome.code in (1, 2), outcome.err
    assert "fault of flashvsr-trt" not in outcome.err
    assert_refused(outcome, outcome.code)
    assert names(tmp_path) == {"clip.mp4"}


@pytest.mark.parametrize(
    "arguments",
    [
        ("parity", "nowhere", "--frames", "0"),
        ("engines", "build", "--workspace", HUGE),
        ("engines", "build", "--optimization-level", "9"),
        ("engines", "build", "--size", "²x²"),
        ("engines", "build", "--preset", "nano", "--device-arch", "x.y"),
        ("export", "--input-size", "99999999x99999999"),
        ("export", "--size", "65536x65536", "--weights", "nowhere"),
        ("kernels", "build", "--arch", "sm_90", "--workers", HUGE, "-o", "out"),
        ("kernels", "build", "--arch", "sm_90", "--workers", "0", "-o", "out"),
        ("inspect", "/dev/null"),
        ("inspect", "nowhere.onnx"),
        ("weights", "convert", "/dev/null", "out.safetensors"),
        ("engines", "show", "\n"),
    ],
    ids=" ".join,
)
def test_commands_refuse_what_cannot_be_done(tmp_path, monkeypatch, capfd, arguments):
    monkeypatch.chdir(tmp_path)
    outcome = call(capfd, *arguments)
    assert outcome.code in (1, 2), outcome.err
    assert "fault of flashvsr-trt" not in outcome.err
    assert_refused(outcome, outcome.code)
    assert names(tmp_path) == set()


@pytest.mark.parametrize(
    "variables",
    [
        {"RANK": "a"},
        {"WORLD_SIZE": "-1"},
        {"LOCAL_RANK": "²"},
        {"RANK": "7"},
        {"WORLD_SIZE": "0"},
        {"LOCAL_WORLD_SIZE": "9" * 30},
        {"MASTER_PORT": "http"},
    ],
    ids=str,
)
def test_torchrun_variables_that_torchrun_never_sets(clip, capfd, monkeypatch, variables):
    whole = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    for name, value in (whole | variables).items():
        monkeypatch.setenv(name, value)
    assert_refused(call(capfd, "run", clip, *NANO), 2, "torchrun")


def test_a_report_that_is_a_folder(clip, tmp_path, capfd):
    assert_refused(call(capfd, "run", clip, *NANO, "--json", tmp_path), 2, str(tmp_path), "folder")
    assert_refused(call(capfd, "compare", clip, clip, "--json", tmp_path), 2, str(tmp_path), "folder")


@pytest.mark.parametrize("module", EXTRAS)
def test_a_part_that_is_not_installed_is_named_with_what_installs_it(capfd, monkeypatch, module):
    def miss(*_, **__):
        raise ModuleNotFoundError(f"No module named '{module}.part'", name=f"{module}.part")

    monkeypatch.setattr(cli.cli, "main", miss)
    assert_refused(call(capfd, "doctor"), 1, install_command(EXTRAS[module]))


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (
            RuntimeError("odd"),
            cli.FAULT,
            "odd; this is a fault of flashvsr-trt; --debug shows it",
        ),
        (ModuleNotFoundError("No module named 'x'", name="x"), cli.FAULT, "fault of flashvsr-trt"),
        (PermissionError(13, "Permission denied", "/cache"), 1, "/cache: Permission denied"),
        (OSError(28, "No space left on device"), 1, "No space left"),
        (MemoryError(), 1, "not enough memory"),
        (RecursionError("two\nlines"), cli.FAULT, "two lines"),
    ],
    ids=repr,
)
def test_the_last_net_is_one_line(capfd, monkeypatch, error, code, text):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(cli.cli, "main", fail)
    assert_refused(call(capfd, "doctor"), code, text)
    with pytest.raises(type(error)):
        cli.main(["--debug", "doctor"])


def shell(script, **options):
    """A command line that a shell runs, where P is the program."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "P": f"{sys.executable} -m flashvsr_trt"}
    environment |= options.pop("env", {})
    command = ["bash", "-c", script]
    return subprocess.run(command, capture_output=True, env=environment, timeout=120, **options)


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("$P presets --json | head -c 1 >/dev/null; exit 0", 0),
        ("$P presets >&-", 0),
        ("$P presets 2>&-", 0),
        ("$P presets <&-", 0),
        ("$P presets <&- >&- 2>&-", 0),
        ("$P run x.mp4 -o - >&-", 2),
        ("$P run x.mp4 -o /dev/fd/1 <&- >&-", 2),
        ("$P compare x.mp4 y.mp4 --json - >&-", 2),
        ("$P run x.mp4 -o ''", 2),
        ("$P run x.mp4 --json ''", 2),
        ("$P export -o ''", 2),
        ("$P export -o -", 2),
        ("$P calibrate x.mp4 -o -", 2),
        ("$P run x.mp4 --profile -", 2),
        ("$P bench --size 641x361", 2),
        ("$P run - -o x.mp4 --preset nano <&-", 1),
        ("$P presets > /dev/full", 1),
        ("$P presets > /dev/full 2>&1", 1),
        ("FLASHVSR_NOTHING= $P presets 2>/dev/full", 0),
        ("$P run x.mp4 2>/dev/full", 1),
        ("$P run --help > /dev/full", 1),
        ("env -u HOME $P doctor", 0),
        ("HOME=/nowhere FLASHVSR_WEIGHTS=/nowhere $P doctor", 0),
        ("FLASHVSR_CACHE=/dev/null $P engines list", 1),
        ("FLASHVSR_CACHE=/dev/null/x $P engines list", 0),
    ],
)
def test_streams_and_surroundings_that_are_not_as_usual(tmp_path, script, code):
    done = shell(script, cwd=tmp_path)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
    assert b"fault of flashvsr-trt" not in done.stderr
    assert done.returncode == code, done.stderr
    assert names(tmp_path) == set()


def test_a_reader_that_went_away_is_no_error(tmp_path):
    done = shell("$P presets | true; exit ${PIPESTATUS[0]}", cwd=tmp_path)
    assert done.stderr == b""
    # 1 is click's; a reader that ends late is not noticed.
    assert done.returncode in (0, 1, cli.BROKEN_PIPE)


@settings(deadline=None, max_examples=40)
@given(st.text(alphabet="0123456789x/.-+eEnaif²٣ \0", max_size=12))
def test_option_types_give_a_value_or_refuse(text):
    for kind in (options.SizeType(), options.RateType(), options.FiniteType(), options.COUNT, options.SEED):
        try:
            value = kind.convert(text, None, None)
        except cli.click.BadParameter:
            continue
        json.dumps(str(value))
        assert value == value
