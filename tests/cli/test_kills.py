"""Commands that are ended at drawn moments: only the output changes, and it is whole or not there."""

import json
import random
import re
import shutil
import signal
from dataclasses import dataclass

import pytest

from tests.cli.command import spawn
from tests.clips import make_clip, make_images
from tests.file_tree import tree
from tests.fork_server import ForkServer

KILLS = 20
NANO = ("--preset", "nano")
PAGE = ("--html", "page.html", "--json", "report.json")
EXPORT = ("--preset", "nano-full-attn", "--size", "256x128", "--weights", "random:1", "--precision", "fp32")


@dataclass(frozen=True)
class Command:
    """Arguments, and what of the files they write is there before."""

    arguments: tuple[str, ...]
    existing: tuple[str, ...] = ()


COMMANDS = {
    "run": Command(("run", "clip.mp4", *NANO, "-o", "out.mp4", "--json", "report.json")),
    "run --overwrite": Command(
        ("run", "clip.mp4", *NANO, "-o", "out.mp4", "--json", "report.json", "--overwrite"),
        ("out.mp4", "report.json"),
    ),
    "run to pictures": Command(("run", "clip.mp4", *NANO, "-o", "pictures/%05d.png")),
    "run over pictures": Command(
        ("run", "clip.mp4", *NANO, "-o", "pictures/%05d.png", "--overwrite"), ("pictures/00001.png",)
    ),
    "run among files": Command(
        ("run", "clip.mp4", *NANO, "-o", "mine/%05d.png", "--overwrite"),
        ("mine/00001.png", "mine/00099.png"),
    ),
    "compare": Command(("compare", "clip.mp4", "clip.mp4", *PAGE)),
    "compare --overwrite": Command(("compare", "clip.mp4", "clip.mp4", *PAGE, "--overwrite"), PAGE[1::2]),
    "weights convert": Command(("weights", "convert", "random:1", "w.safetensors", *NANO)),
    "export": Command(("export", *EXPORT, "-o", "bundle")),
    "kernels build": Command(("kernels", "build", "--arch", "sm_80", "-o", "kernels")),
    "kernels build among files": Command(("kernels", "build", "--arch", "sm_80", "-o", "mine")),
}


@pytest.fixture(scope="module")
def server():
    with ForkServer() as started:
        yield started


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A folder with inputs, and with files that look like ours and are not."""
    folder = tmp_path_factory.mktemp("start")
    make_clip(folder / "clip.mp4", frames=6, size=(64, 64))
    make_images(folder / "images", frames=3, size=(64, 64))
    for name in ("out.part.mp4", "w.part.safetensors", ".out.mp4.flashvsr-part", "manifest.json.part.json"):
        (folder / name).write_text("mine")
    for name in ("pictures.part", "bundle.part.x", "mine", "mine/.part"):
        (folder / name).mkdir()
        (folder / name / "notes.txt").write_text("mine")
    return folder


def prepared(folder, start, command):
    shutil.copytree(start, folder)
    for name in command.existing:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("old")
    return tree(folder)


def outputs(before, after):
    """What a command wrote: path -> content, or None for what it removed."""
    paths = before.keys() | after.keys()
    return {path: after.get(path) for path in paths if path not in before or before[path] != after.get(path)}


def settled(content):
    """The content of an output without what differs from run to run."""
    if not isinstance(content, bytes):
        return content
    measured = rb"seconds|fps|steady_fps|real_time|read|wait_for_read|upscale|wait_for_write|write"
    return re.sub(rb"\"(" + measured + rb")\": ([0-9.e+-]+|null)", b"", content)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_is_ended_loses_nothing(server, start, tmp_path, name):
    command, draw = COMMANDS[name], random.Random(name)
    before = prepared(tmp_path / "whole", start, command)
    whole = server.run(tmp_path / "whole", *command.arguments)
    assert whole.code == 0, whole.err
    made = {path: settled(x) for path, x in outputs(before, tree(tmp_path / "whole")).items()}
    assert made
    for number in range(KILLS):
        end_by = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)[number % 4]
        end_at = draw.randrange(1, whole.accesses + 1)
        folder = tmp_path / str(number)
        prepared(folder, start, command)
        ended = server.run(folder, *command.arguments, end_by=end_by, end_at=end_at)
        if end_by == signal.SIGKILL:
            assert ended.code == -signal.SIGKILL
            # The next run of any command that writes there removes what is left, or finishes it.
            again = ("compare", "clip.mp4", "clip.mp4", "--json")
            for place in ("again.json", "mine/again.json"):
                later = server.run(folder, *again, place, young_seconds=-1)
                assert later.code == 0, later.err
                (folder / place).unlink()
        else:
            assert_ended_in_one_line(ended, end_by)
        assert_whole_or_absent(before, tree(folder), made, command, f"{end_by.name} at {end_at}: {ended.err}")
        shutil.rmtree(folder)


def assert_ended_in_one_line(ended, end_by):
    if ended.code == 0:  # it came too late
        return
    assert ended.code == 128 + end_by, ended.err
    last = ended.err.strip().splitlines()[-1]
    how = "interrupted" if end_by == signal.SIGINT else f"ended by {end_by.name}"
    assert re.fullmatch(rf"{how}; (nothing was|only .* was|only 2 outputs were) written.*", last), ended.err
    assert "Traceback" not in ended.err


def assert_whole_or_absent(before, after, made, command, how):
    found = {path: settled(content) for path, content in outputs(before, after).items()}
    assert found.keys() <= made.keys(), how
    assert found.items() <= made.items(), how
    # Pictures are one output, and so is a folder; a report is another one than the video.
    for group in ({path for path in made if "/" in path or made[path] is None},):
        assert found.keys() & group in (set(), group), how


def test_two_runs_to_one_name(start, tmp_path):
    shutil.copy(start / "clip.mp4", tmp_path)
    runs = [spawn("compare", "clip.mp4", "clip.mp4", "--json", "report.json", cwd=tmp_path) for _ in range(2)]
    said = [run.communicate(timeout=120)[1] for run in runs]
    won, lost = sorted(range(2), key=lambda number: runs[number].returncode)
    assert [runs[won].returncode, runs[lost].returncode] == [0, 2], said
    assert re.search("error: report.json (is being written|exists already|came into being)", said[lost])
    assert json.loads((tmp_path / "report.json").read_text())["frames_compared"] == 6
    assert {path.name for path in tmp_path.iterdir()} == {"clip.mp4", "report.json"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_is_one_line_and_leaves_nothing(server, start, tmp_path, name):
    command = COMMANDS[name]
    before = prepared(tmp_path / "full", start, command)
    ended = server.run(tmp_path / "full", *command.arguments, file_bytes=100)
    assert ended.code == 1, ended.err
    last = ended.err.strip().splitlines()[-1]
    assert last.startswith("error: "), ended.err
    assert "cannot be written" in last
    assert "Traceback" not in ended.err
    assert tree(tmp_path / "full") == before
