"""Options from a file and from the environment, old spellings, FFmpeg's times, help, bench and codecs."""

import json
import os
import re
import sys
from fractions import Fraction

import click
import pytest

from flashvsr_trt.cli.commands import GROUP_OF, VARIABLES
from flashvsr_trt.cli.main import cli, main
from flashvsr_trt.cli.options import TimeType
from tests.cli.command import assert_refused, call
from tests.clips import make_clip, probe

RUN = ("--weights", "random", "--backend", "torch", "--schedule", "low-latency")


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Writes the file."""
    monkeypatch.setenv("FLASHVSR_CONFIG", str(tmp_path / "config.toml"))
    return (tmp_path / "config.toml").write_text


def seen(capfd, command, *arguments) -> dict:
    """What a command gets for its options."""
    found = {}
    callback = cli.commands[command].callback
    try:
        cli.commands[command].callback = lambda *rest, **options: found.update(options)
        outcome = call(capfd, command, *arguments)
    finally:
        cli.commands[command].callback = callback
    assert outcome.code == 0, outcome.err
    return found


def test_the_command_line_goes_before_the_environment_and_that_before_the_file(settings, monkeypatch, capfd):
    settings('preset = "nano"\nscale = 4\n[run]\ncrf = 30\nbuild = false\nencoder-option = ["preset=slow"]\n')
    options = seen(capfd, "run", "a.mp4")
    assert (options["preset"], options["scale"], options["crf"]) == ("nano", 4, 30.0)
    assert options["build"] is False
    assert options["encoder_options"] == {"preset": "slow"}
    monkeypatch.setenv("FLASHVSR_CRF", "20")
    monkeypatch.setenv("FLASHVSR_PRESET", "full-attn")
    options = seen(capfd, "run", "a.mp4", "--preset", "balanced")
    assert (options["preset"], options["scale"], options["crf"]) == ("balanced", 4, 20.0)
    # What stands before the sections is for other commands as well.
    assert seen(capfd, "bench")["scale"] == 4


def test_an_empty_variable_names_no_file(monkeypatch, tmp_path, capfd):
    monkeypatch.setenv("FLASHVSR_CONFIG", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert seen(capfd, "bench")["scale"] == 2


def test_a_value_of_the_file_is_taken_as_if_it_were_typed(settings, capfd):
    settings('[run]\nencoder-option = "preset=slow"\nstart = 00:01:30\nrate = 29.97')
    options = seen(capfd, "run", "a.mp4")
    assert (options["encoder_options"], options["start"]) == ({"preset": "slow"}, 90)
    assert options["rate"] == Fraction(2997, 100)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("presett = 3", "did you mean preset?"),
        ("[run]\nsize = 3", "run has no option 'size'"),
        ("[runn]\ncrf = 3", "did you mean run?"),
        ("[engines]\nflavour = 'rtx'", "no command 'flavour'"),
        ("[engines]\nbuild = 3", "engines build is a command"),
        ("crf = ", "cannot be read"),
        ('[run]\ncrf = "x"', "is not a number (from "),
        ("[run]\ncrf = [1, 2]", "run crf = [1, 2] cannot be; write one text or number"),
        ("[run]\ncrf = 1979-05-27", "write one text or number"),
        ("crf = true", "run crf = True cannot be"),
        ("[run]\nframes = 2.5", "'2.5' is not a valid"),
        ("[run]\noverwrite = 'yes'", "write true or false"),
        ("[run.encoder-option]\npreset = 'slow'", "write texts in a list"),
        ("[run]\nencoder-option = [['a']]", "write texts in a list"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(settings, capfd, text, said):
    settings(text)
    assert_refused(call(capfd, "run", "a.mp4"), 2, said)
    # What mends it works.
    assert call(capfd, "config", "where").code == 0


def test_what_config_writes_can_be_read(tmp_path, settings, capfd):
    assert call(capfd, "config", "write").code == 0
    written = (tmp_path / "config.toml").read_text()
    assert '# preset = "sparse-2.0"' in written
    options = [line[2:] for line in written.splitlines() if line.startswith("# ") and " = " in line]
    given = [line.partition("  #")[0] for line in options]
    settings("\n".join(["[run]", *(line for line in given if line.partition(" = ")[2].strip())]))
    assert seen(capfd, "run", "a.mp4")["preset"] == "sparse-2.0"
    assert_refused(call(capfd, "config", "write"), 2, "exists")
    assert call(capfd, "config", "show").code == 0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12", 12), ("12.5", 12.5), ("1:30", 90), ("1:02:03.5", 3723.5), ("500ms", 0.5), ("12.5s", 12.5)],
)
def test_times_are_ffmpegs(text, seconds):
    assert TimeType().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["-1", "-0:30", "x", "1:99", ""])
def test_what_is_no_time(text):
    with pytest.raises(click.BadParameter):
        TimeType().convert(text, None, None)


def test_ss_and_t_are_seconds_and_start_and_duration_frames(tmp_path, capfd):
    clip = make_clip(tmp_path / "clip.mp4", frames=48, size=(64, 64))
    outcome = call(capfd, "run", clip, "--preset", "nano", *RUN, "-ss", "1", "-t", "0.25", "-y")
    assert outcome.code == 0, outcome.err
    assert probe(tmp_path / "clip_2x.mp4").frames == 6
    assert_refused(call(capfd, "run", clip, "-ss", "1", "--start", "2"), 2, "-ss and --start")


@pytest.mark.parametrize(
    ("command", "arguments", "option", "value"),
    [
        ("run", ("a.mp4", "-y"), "overwrite", True),
        ("run", ("a.mp4", "-y", "-n"), "overwrite", False),
        ("run", ("a.mp4", "--dtype", "bfloat16"), "dtype", "bfloat16"),
        ("calibrate", ("a.mp4", "-o", "x", "--precision", "bf16"), "dtype", "bfloat16"),
        ("calibrate", ("a.mp4", "-o", "x", "--dtype", "float16"), "dtype", "float16"),
    ],
)
def test_old_and_new_spellings(capfd, command, arguments, option, value):
    assert seen(capfd, command, *arguments)[option] == value


def test_every_option_of_run_has_a_heading_and_a_line():
    for option in cli.commands["run"].params:
        if isinstance(option, click.Option) and not option.hidden:
            assert GROUP_OF.get(option.name), option.name
            assert option.help, option.name


def test_bench_says_passed_and_failed(capfd):
    stream = ("--preset", "nano", "--weights", "random", "--backend", "torch", "--size", "128x128")
    count = ("--warm-up", "0", "--iterations", "1", "--schedule", "low-latency")
    outcome = call(capfd, "bench", *stream, *count)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert lines[0].startswith("&&&& RUNNING flashvsr-trt [v")
    assert lines[-1].startswith("&&&& PASSED flashvsr-trt [v")
    assert lines[-1].endswith(" ".join(count))
    assert "percentile(99%)" in outcome.out
    outcome = call(capfd, "bench", *stream, *count, "--least-fps", "1e9", "--json")
    assert_refused(outcome, 1, "--least-fps")
    assert json.loads(outcome.out)["passed"] is False


def test_codecs_are_listed_with_what_opens(capfd):
    outcome = call(capfd, "run", "--list-codecs")
    assert outcome.code == 0
    assert any(line.split()[0] == "libx264" and line.endswith("opens") for line in outcome.out.splitlines())


@pytest.mark.parametrize("name", ["FLASHVSR_PIX_FMT", "FLASHVSR_PIXEL_FORMAT"])
def test_a_variable_is_called_as_the_option_or_its_value(monkeypatch, capfd, name):
    monkeypatch.setenv(name, "yuv444p")
    assert seen(capfd, "run", "a.mp4")["pixel_format"] == "yuv444p"
    assert f"{name}=yuv444p" in call(capfd, "config", "show").out


def test_a_bad_value_of_a_variable_is_said_to_be_of_it(monkeypatch, capfd):
    monkeypatch.setenv("FLASHVSR_CRF", "high")
    assert_refused(call(capfd, "run", "a.mp4"), 2, "'--crf': 'high' is not a number (from FLASHVSR_CRF)")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "nosuch") for name in ("PRESET", "BACKEND", "DEVICE", "CODEC", "PIX_FMT", "SCALE")],
        *[("CRF", "500"), ("ENCODER_OPTION", "preset=nosuch"), ("GPUS", "9"), ("TILE", "100x100")],
        *[("CALIBRATION", "/nowhere/kept.json"), ("LOG_FILE", "/nowhere/run.log"), ("PROGRESS", "nosuch")],
        *[("START", "400"), ("VRAM", "1M"), ("WEIGHTS", "/nowhere"), ("ATTENTION", "nosuch")],
        ("RAW_FORMAT", "nosuch"),
    ],
)
def test_an_error_names_the_variable_or_the_key_that_its_value_came_from(
    tmp_path, settings, monkeypatch, capfd, name, value
):
    clip = make_clip(tmp_path / "clip.mp4", frames=1, size=(64, 64))
    given = {"PRESET": "sparse-2.0"} if name == "WEIGHTS" else {"PRESET": "nano", "WEIGHTS": "random"}
    given |= {"RAW_SIZE": "8x8"} if name == "RAW_FORMAT" else {}
    given |= {"BACKEND": "torch", "PRECISION": "fp8" if name == "CALIBRATION" else "auto", name: value}
    for variable, text in given.items():
        monkeypatch.setenv(f"FLASHVSR_{variable}", text)
    settings("")
    outcome = call(capfd, "run", clip)
    assert_refused(outcome, outcome.code, f"(from FLASHVSR_{name})")
    if name != "WEIGHTS":
        monkeypatch.delenv(f"FLASHVSR_{name}")
        key = name.lower().replace("_", "-")
        settings(f"[run]\n{key} = {[value] if name == 'ENCODER_OPTION' else repr(value)}\n")
        outcome = call(capfd, "run", clip)
        assert_refused(outcome, outcome.code, f"(from {key} in {tmp_path / 'config.toml'})")


def test_an_error_about_something_else_names_no_variable(monkeypatch, capfd):
    monkeypatch.setenv("FLASHVSR_PRESET", "nano")
    monkeypatch.setenv("FLASHVSR_DEVICE", "auto")
    outcome = call(capfd, "run", "nowhere.mp4")
    assert_refused(outcome, 1, "no such file")
    assert "(from" not in outcome.err


@pytest.mark.parametrize("command", ["run", "bench", "calibrate"])
def test_what_a_choice_takes_is_said_in_words_of_the_command_line(capfd, command):
    arguments = {"run": ("a.mp4",), "bench": (), "calibrate": ("a.mp4", "-o", "x")}[command]
    outcome = call(capfd, command, *arguments, "--precision", "FP8")
    assert_refused(outcome, 2, "'auto', 'fp32', 'bf16', 'fp16'")
    assert not {"'dtype'", "'float32'"} & set(re.split("[ ,;]+", outcome.err))


def test_a_bound_of_runs_asks_doctor_nothing_else(settings, monkeypatch, capfd):
    settings('vram = "8G"')
    assert seen(capfd, "run", "a.mp4")["vram"] == 8 * 2**30
    monkeypatch.setenv("FLASHVSR_VRAM", "6G")
    assert seen(capfd, "doctor")["budgets"] == ()


def test_an_older_word_for_a_choice_is_taken(capfd):
    assert seen(capfd, "run", "a.mp4", "--precision", "dtype")["precision"] == "auto"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("FLASHVSR_CRFF", "did you mean FLASHVSR_CRF?"),
        ("FLASHVSR_CACH", "did you mean FLASHVSR_CACHE?"),
        ("FLASHVSR_ABCDEFG", "no option has that name"),
    ],
)
def test_a_variable_that_nothing_reads_is_said(monkeypatch, capfd, name, advice):
    monkeypatch.setenv(name, "3")
    for variable in VARIABLES - {"FLASHVSR_CONFIG"}:
        monkeypatch.setenv(variable, "")
    assert call(capfd, "presets").err == f"{name} is not read: {advice}\n"
    assert call(capfd, "presets", "-q").err == ""


def test_a_reader_that_has_gone_ends_a_command_as_shells_have_it(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        with pytest.raises(SystemExit) as ended:
            main(["presets"])
    assert ended.value.code == 141
