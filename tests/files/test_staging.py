"""Staging folders: what killed runs left, replacements that were cut, and two runs to one name."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flashvsr_trt.errors import UsageError
from flashvsr_trt.files import renames, staging
from flashvsr_trt.files.new import new_file, new_folder, write_text
from flashvsr_trt.files.staging import UNFINISHED, leftovers, remove_leftovers, remove_unfinished
from tests.file_tree import fill, numbered, tree


def abandoned(tmp_path, make, monkeypatch):
    """What `make` leaves when its process is killed, as old as it takes."""
    with monkeypatch.context() as patch:
        patch.setattr(staging.time, "time_ns", lambda: 10**18)
        make()
    for path in list(UNFINISHED):
        UNFINISHED.pop(path)._lock.release()


class TestRemoval:
    def test_a_thread_that_still_writes_stops_none_of_it(self, tmp_path, monkeypatch):
        folder = new_folder(tmp_path / "pictures")
        content = Path(folder.part)
        (content / "1.png").write_bytes(b"one")
        rmtree, refused = staging.shutil.rmtree, []

        def with_a_late_writer(path):
            try:
                (content / "2.png").write_bytes(b"late")
            except FileNotFoundError as error:
                refused.append(error)
            rmtree(path)

        monkeypatch.setattr(staging.shutil, "rmtree", with_a_late_writer)
        folder.abort()
        assert len(refused) == 1
        assert tree(tmp_path) == {}


class TestLeftovers:
    def test_the_next_run_removes_what_a_killed_one_left(self, tmp_path, monkeypatch):
        abandoned(tmp_path, lambda: new_file(tmp_path / "out.txt").file.write(b"half"), monkeypatch)
        assert len(leftovers(tmp_path)) == 1
        write_text(tmp_path / "other.txt", "new")
        assert tree(tmp_path) == {"other.txt": b"new"}

    def test_what_a_living_run_writes_stays(self, tmp_path, monkeypatch):
        code = (
            "import sys, time; time.time_ns = lambda: 10**18\n"
            "from flashvsr_trt.files.new import new_file\n"
            f"file = new_file({str(tmp_path / 'out.txt')!r}); print('open', flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", code]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"open\n"
            assert leftovers(tmp_path) == []
            assert remove_leftovers(tmp_path) == []
            with pytest.raises(UsageError, match=f"process {process.pid}"):
                new_file(tmp_path / "out.txt")
            write_text(tmp_path / "other.txt", "new")
            process.kill()
            process.wait()
        assert len(remove_leftovers(tmp_path)) == 1
        assert tree(tmp_path) == {"other.txt": b"new"}

    def test_another_host_has_a_day(self, tmp_path, monkeypatch):
        abandoned(tmp_path, lambda: new_file(tmp_path / "out.txt"), monkeypatch)
        monkeypatch.setattr(staging.socket, "gethostname", lambda: "another")
        assert leftovers(tmp_path) == []
        for path in (*tmp_path.glob(".out*/*"), *tmp_path.glob(".out*")):
            os.utime(path, (0, 0))
        assert len(remove_leftovers(tmp_path)) == 1
        assert tree(tmp_path) == {}

    def test_a_link_with_such_a_name_is_not_followed(self, tmp_path, monkeypatch):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "content").write_text("mine")
        (tmp_path / staging.staging_name("x")).symlink_to("mine")
        assert remove_leftovers(tmp_path) == []
        assert (tmp_path / "mine" / "content").read_text() == "mine"

    @pytest.mark.parametrize("at", range(1, 4))
    @pytest.mark.parametrize("call", [True, False], ids=["exchange", "two renames"])
    def test_a_swap_that_was_cut_is_settled(self, tmp_path, monkeypatch, at, call):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "1.png").write_text("old")

        def make():
            folder = new_folder(tmp_path / "out", overwrite=True, owns=numbered)
            fill(folder, "2.png")
            self.cut(monkeypatch, at, folder.finish)

        if not call:
            monkeypatch.setattr(renames, "_linux_call", lambda: None)
        abandoned(tmp_path, make, monkeypatch)
        remove_leftovers(tmp_path)
        assert tree(tmp_path) in (
            {"out": None, "out/1.png": b"old"},
            {"out": None, "out/2.png": b"new"},
        )

    @pytest.mark.parametrize("at", range(1, 7))
    @pytest.mark.parametrize("overwrite", [True, False])
    def test_a_merge_that_was_cut_is_finished(self, tmp_path, monkeypatch, at, overwrite):
        (tmp_path / "notes.txt").write_text("mine")
        old = {"1.png": b"old", "4.png": b"old"} if overwrite else {}
        for name, content in old.items():
            (tmp_path / name).write_bytes(content)

        def make():
            folder = new_folder(tmp_path, overwrite=overwrite, owns=numbered)
            fill(folder, "1.png", "2.png", "3.png")
            self.cut(monkeypatch, at, folder.finish)

        abandoned(tmp_path, make, monkeypatch)
        remove_leftovers(tmp_path)
        new = {name: b"new" for name in ("1.png", "2.png", "3.png")}
        assert tree(tmp_path) == {"notes.txt": b"mine"} | new

    @staticmethod
    def cut(monkeypatch, at, finish):
        """Run `finish` until its n-th change of a name, at which the process is as if killed."""

        class Killed(BaseException):
            pass

        count = 0

        def counting(function):
            def call(*arguments, **options):
                nonlocal count
                count += 1
                if count >= at:
                    raise Killed
                return function(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("rename", "replace", "unlink", "rmdir"):
                patch.setattr(os, name, counting(getattr(os, name)))
            patch.setattr(renames, "_renameat2", counting(renames._renameat2))
            patch.setattr(staging.shutil, "rmtree", counting(staging.shutil.rmtree))
            with contextlib.suppress(Killed):
                finish()

    @pytest.mark.parametrize("name", ["../kept", "/tmp/kept", "..", ".", "a/b", 3, None, ["kept"]])
    def test_a_note_leads_nowhere_else(self, tmp_path, monkeypatch, name):
        (tmp_path / "kept").write_text("mine")
        (tmp_path / "in").mkdir()
        abandoned(tmp_path, lambda: new_folder(tmp_path / "in" / "out"), monkeypatch)
        (path,) = map(Path, leftovers(tmp_path / "in"))
        (path / "content" / "kept").write_text("theirs")
        for note in ({"into": name, "stale": []}, {"into": "out", "stale": [name]}):
            (path / "merge.json").write_text(json.dumps(note | {"overwrite": True}))
            remove_leftovers(tmp_path / "in")
            assert path.exists()
            assert (tmp_path / "kept").read_text() == "mine"

    def test_all_of_a_process_can_be_removed(self, tmp_path):
        new_file(tmp_path / "out.txt")
        new_folder(tmp_path / "out")
        remove_unfinished()
        assert tree(tmp_path) == {}


class TestTwoRuns:
    def test_the_second_is_told_at_once(self, tmp_path):
        with new_file(tmp_path / "out.txt") as first:
            with pytest.raises(UsageError, match="another run"):
                new_file(tmp_path / "out.txt", overwrite=True)
            write_text(tmp_path / "other.txt", "other")
            first.finish()
        assert tree(tmp_path) == {"out.txt": b"", "other.txt": b"other"}

    def test_one_of_many_wins_whole(self, tmp_path, filesystem, monkeypatch):
        monkeypatch.setattr(staging, "_earlier_writer", lambda staging: None)
        together, outcomes = threading.Barrier(8), []

        def write(number):
            with new_file(tmp_path / "out.txt") as file:
                file.file.write(b"%d" % number * 1000)
                together.wait()
                try:
                    file.finish()
                    outcomes.append(number)
                except UsageError:
                    pass

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 1
        assert tree(tmp_path) == {"out.txt": b"%d" % outcomes[0] * 1000}
