"""The cache is shared and heals: one maker, damaged entries are set aside, readers keep theirs."""

import json
import os
import subprocess
import sys

import pytest

from flashvsr_trt.cache.entries import LOCKS, find_or_make, is_in_use, is_set_aside, mark_in_use
from flashvsr_trt.cache.folder import cache_folder
from flashvsr_trt.cli.cache import seconds_of
from flashvsr_trt.errors import BundleError, CacheError, UsageError
from tests.cli.command import call

MAKER = """
import os, sys
from pathlib import Path
from flashvsr_trt.cache.entries import find_or_make
from flashvsr_trt.files.new import new_folder

folder = Path(sys.argv[1])

def read():
    return (folder / "text").read_text() if folder.is_dir() else None

def make():
    with new_folder(folder) as made:
        Path(made.part, "text").write_text(str(os.getpid()))
        made.finish()
    print("made", flush=True)
    return read()

print(find_or_make(folder, read, make, print))
"""

READER = """
import sys
from pathlib import Path
from flashvsr_trt.cache.entries import mark_in_use
mark_in_use(Path(sys.argv[1]))
print("reading", flush=True)
sys.stdin.read()
"""

BUNDLE = "nano-128x128-low-latency-fp32-0123456789abcdef"


def test_several_at_once_make_an_entry_once(tmp_path):
    command = [sys.executable, "-c", MAKER, str(tmp_path / "kind" / "entry")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [run.communicate(timeout=300)[0].splitlines() for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert sum("made" in lines for lines in printed) == 1
    assert len({lines[-1] for lines in printed}) == 1


def test_a_damaged_entry_is_set_aside_and_made_again(tmp_path):
    folder, said = tmp_path / "entry", []
    folder.mkdir()
    (folder / "text").write_text("damaged")

    def read():
        if not folder.exists():
            return None
        if (folder / "text").read_text() == "damaged":
            raise BundleError("the entry is damaged")
        return "whole"

    def make():
        folder.mkdir()
        (folder / "text").write_text("whole")
        return read()

    assert find_or_make(folder, read, make, said.append) == "whole"
    (aside,) = [path for path in tmp_path.iterdir() if is_set_aside(path.name)]
    assert (aside / "text").read_text() == "damaged"
    (line,) = said
    assert "the entry is damaged; it is set aside as" in line


def test_a_cache_that_cannot_be_written_still_gives_what_it_has(tmp_path):
    (tmp_path / "cache").write_text("a file")
    entry = tmp_path / "cache" / "bundles" / "entry"
    assert find_or_make(entry, lambda: "whole", pytest.fail, pytest.fail) == "whole"
    with pytest.raises(CacheError, match=r"cannot be written .*set FLASHVSR_CACHE"):
        find_or_make(entry, lambda: None, pytest.fail, pytest.fail)


def test_where_the_cache_is(tmp_path, monkeypatch):
    monkeypatch.delenv("FLASHVSR_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("bundles") == tmp_path / "xdg" / "flashvsr-trt" / "bundles"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder("bundles") == tmp_path / ".cache" / "flashvsr-trt" / "bundles"
    monkeypatch.setenv("FLASHVSR_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    with pytest.raises(CacheError, match="is no folder"):
        cache_folder("bundles")


def made_bundle(root, name):
    folder = root / "bundles" / name
    folder.mkdir(parents=True)
    (folder / "bundle.json").write_text(json.dumps({"format": "flashvsr-trt bundle"}))
    return folder


def test_prune_removes_only_what_is_ours_and_not_in_use(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("FLASHVSR_CACHE", str(tmp_path))
    ours, used = made_bundle(tmp_path, BUNDLE), made_bundle(tmp_path, BUNDLE.replace("0", "1"))
    aside = made_bundle(tmp_path, f"{BUNDLE}.damaged-{0:012x}-{0:08x}")
    anothers = made_bundle(tmp_path, "my-holiday")
    empty = tmp_path / "bundles" / BUNDLE.replace("0", "2")
    empty.mkdir()
    link = tmp_path / "bundles" / BUNDLE.replace("0", "3")
    link.symlink_to(anothers)
    listed = json.loads(call(capfd, "cache", "list", "--json").out)
    assert {entry["name"] for entry in listed} == {ours.name, used.name, aside.name}
    assert call(capfd, "cache", "prune", "--older-than", "30d").out.startswith("0 removed")
    assert "1 to remove" in call(capfd, "cache", "prune", "--dry-run").out
    assert call(capfd, "cache", "prune").code == 0
    assert ours.exists()
    assert not aside.exists()
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(used)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout.readline() == "reading\n"
    outcome = call(capfd, "cache", "prune", "--all")
    reader.communicate("")
    assert "in use by another process" in outcome.err
    assert not ours.exists()
    assert all(path.exists() for path in (used, anothers, empty, link))
    assert not is_in_use(used)


def test_marks_are_files_of_the_cache(tmp_path):
    mark_in_use(tmp_path / "entry")
    (mark,) = (tmp_path / LOCKS).iterdir()
    assert mark.name.startswith(f"entry.{os.getpid()}-")
    assert is_in_use(tmp_path / "entry")


@pytest.mark.parametrize("age", ["", "30", "d", "-1d", "1e3d", "\u0663d", "9999999d"])
def test_an_age_that_is_none_is_refused(age):
    with pytest.raises(UsageError, match="is no age"):
        seconds_of(age)
