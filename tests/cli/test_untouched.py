"""Whatever lies around and whatever names are given: nothing but the output changes."""

import os
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.clips import make_clip
from tests.file_tree import tree
from tests.fork_server import NOT_CAUGHT, ForkServer

CLIP = "clip.mkv"
FILES = ("out.mkv", "out.part.mkv", "report.json", "x.part.json", ".part", "page.html", "00001.png")
FOLDERS = ("pictures", "pictures.part", "pictures/.part", "sub")
NAMES = (*FILES, *FOLDERS, CLIP, "sub/out.mkv", "sub/00001.png", "pictures/00001.png", "pictures/00009.png")
TARGETS = (*NAMES, "pictures/", "sub/%05d.png", "%05d.png", "missing/out.mkv", "new.mkv", "new", "-")

kinds = st.sampled_from(["file", "folder", "link", "hard link", "link to the clip", "hard link to the clip"])
trees = st.dictionaries(st.sampled_from(NAMES).filter(lambda name: name != CLIP), kinds, max_size=6)
spellings = st.sampled_from(["{}", "./{}", "sub/../{}", "file:{}", "{absolute}"])
targets = st.tuples(st.sampled_from(TARGETS), spellings)
commands = st.sampled_from(["run", "compare"])


@pytest.fixture(scope="module")
def server():
    with ForkServer() as started:
        yield started


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip") / CLIP, frames=2, size=(64, 64))


def grow(folder, clip, drawn):
    """The drawn tree, as far as its names can be together."""
    (folder / "sub").mkdir()
    shutil.copy(clip, folder / CLIP)
    (folder / "other").write_text("mine")
    for name, kind in sorted(drawn.items()):
        path = folder / name
        if os.path.lexists(path) or path.parent.is_symlink():
            continue
        path.parent.mkdir(exist_ok=True) if not os.path.lexists(path.parent) else None
        if not path.parent.is_dir():
            continue
        source = CLIP if "clip" in kind else "other"
        if kind == "folder":
            path.mkdir()
            (path / "notes.txt").write_text("mine")
        elif kind == "file":
            path.write_text("mine")
        elif kind.startswith("hard"):
            os.link(folder / source, path)
        else:
            path.symlink_to(folder / source)


def spelled(folder, target):
    name, spelling = target
    return name if name == "-" else spelling.format(name, absolute=folder / name)


def may_change(path, folder, given_names):
    """Whether a path of the tree is what one of the names means, or in that folder a picture or the video."""
    for name in given_names:
        meant = Path(os.path.normpath(folder / name.removeprefix("file:")))
        relative = str(meant.relative_to(folder)) if meant.is_relative_to(folder) else ""
        pictures = relative if "%" not in relative else os.path.dirname(relative)
        inside = os.path.relpath(path, pictures or ".")
        if path == relative or re.fullmatch(r"\d{5}\.png|clip_2x\.mkv", inside):
            return True
    return False


@pytest.mark.slow
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(
    drawn=trees, command=commands, names=st.lists(targets, min_size=2, max_size=3), overwrite=st.booleans()
)
def test_nothing_but_the_output_changes(server, clip, tmp_path_factory, drawn, command, names, overwrite):
    folder = tmp_path_factory.mktemp("drawn")
    grow(folder, clip, drawn)
    before = tree(folder)
    given_names = [spelled(folder, name) for name in names]
    options = ("-o", "--json", "--profile") if command == "run" else ("--html", "--json")
    inputs = (CLIP, "--preset", "nano") if command == "run" else (CLIP, CLIP)
    pairs = [part for pair in zip(options, given_names, strict=False) for part in pair]
    ended = server.run(folder, command, *inputs, *pairs, *(["--overwrite"] * overwrite))
    after = tree(folder)
    assert ended.code != NOT_CAUGHT, ended.err
    assert "Traceback" not in ended.err
    changed = {path for path in before.keys() | after.keys() if before.get(path, "") != after.get(path, "")}
    if ended.code:
        assert changed == set(), ended.err
        assert ended.err.strip().splitlines()[-1].lower().startswith("error: ")
    else:
        named = given_names[: len(options)]
        assert all(may_change(path, folder, named) for path in changed), (changed, ended.err)
        assert overwrite or all(path not in before for path in changed)
    shutil.rmtree(folder)
