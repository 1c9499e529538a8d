"""Writing: what appears when, what is refused, and that nothing else is touched."""

import contextlib
import errno
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flashvsr_trt.errors import FileError, UsageError, WeightsError
from flashvsr_trt.files import finished, renames
from flashvsr_trt.files import new as files
from flashvsr_trt.files.finished import what_was_written
from flashvsr_trt.files.new import new_file, new_folder, write_errors, write_text
from flashvsr_trt.files.staging import UNFINISHED
from tests.file_tree import fill, numbered, tree


class TestFile:
    def test_it_appears_whole(self, tmp_path, filesystem):
        path = tmp_path / "out.txt"
        with new_file(path) as file:
            file.file.write(b"all of it")
            assert not path.exists()
            file.finish()
        assert tree(tmp_path) == {"out.txt": b"all of it"}

    def test_it_has_the_mode_of_any_new_file(self, tmp_path):
        with new_file(tmp_path / "out.txt") as file:
            os.chmod(file.part, 0o600)
            file.finish()
        (tmp_path / "other").touch()
        assert (tmp_path / "out.txt").stat().st_mode == (tmp_path / "other").stat().st_mode

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_it_goes_away_when_the_block_fails(self, tmp_path, error):
        with contextlib.suppress(error), new_file(tmp_path / "out.txt") as file:
            file.file.write(b"half")
            raise error
        assert tree(tmp_path) == {}
        assert UNFINISHED == {}

    def test_a_name_that_is_taken_is_kept(self, tmp_path):
        (tmp_path / "out.txt").write_text("mine")
        with pytest.raises(UsageError, match="--overwrite"):
            new_file(tmp_path / "out.txt")
        assert tree(tmp_path) == {"out.txt": b"mine"}

    def test_a_name_that_is_taken_meanwhile_is_kept(self, tmp_path, filesystem):
        with new_file(tmp_path / "out.txt") as file:
            (tmp_path / "out.txt").write_text("theirs")
            with pytest.raises(UsageError, match="came into being"):
                file.finish()
        assert tree(tmp_path) == {"out.txt": b"theirs"}

    def test_it_is_replaced_when_that_is_asked_for(self, tmp_path):
        (tmp_path / "out.txt").write_text("old")
        write_text(tmp_path / "out.txt", "new", overwrite=True)
        assert tree(tmp_path) == {"out.txt": b"new"}

    @pytest.mark.parametrize("target", ["kept.txt", "nowhere"])
    def test_a_link_is_replaced_and_not_followed(self, tmp_path, target):
        (tmp_path / "kept.txt").write_text("kept")
        (tmp_path / "out.txt").symlink_to(target)
        with pytest.raises(UsageError, match="exists already"):
            new_file(tmp_path / "out.txt")
        write_text(tmp_path / "out.txt", "new", overwrite=True)
        assert tree(tmp_path) == {"out.txt": b"new", "kept.txt": b"kept"}

    def test_a_hard_link_keeps_its_other_name(self, tmp_path):
        (tmp_path / "kept.txt").write_text("kept")
        os.link(tmp_path / "kept.txt", tmp_path / "out.txt")
        write_text(tmp_path / "out.txt", "new", overwrite=True)
        assert tree(tmp_path) == {"out.txt": b"new", "kept.txt": b"kept"}

    @pytest.mark.parametrize("name", ["x" * 250 + ".mp4", "é" * 120 + ".mp4", "-", " ", "a\nb", "lock"])
    def test_any_name_that_a_filesystem_takes(self, tmp_path, name):
        write_text(tmp_path / name, "text")
        assert tree(tmp_path) == {name: b"text"}

    @pytest.mark.parametrize("target", [".", "folder", "folder/", ""])
    def test_a_folder_is_no_file(self, tmp_path, monkeypatch, target):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "folder").mkdir()
        with pytest.raises(UsageError, match=r"folder|names no file"):
            new_file(target, overwrite=True)
        assert tree(tmp_path) == {"folder": None}

    @pytest.mark.parametrize("path", ["missing/out.txt", "file/out.txt", "x" * 300, "/proc/out.txt"])
    def test_a_place_that_cannot_be_written_is_one_error(self, tmp_path, path):
        (tmp_path / "file").write_text("")
        with pytest.raises(WeightsError, match="cannot be written"), write_errors(path, WeightsError):
            write_text(tmp_path / path, "")
        assert tree(tmp_path) == {"file": b""}

    def test_a_library_may_put_its_own_file_there(self, tmp_path):
        with new_file(tmp_path / "out.txt") as file:
            own = Path(f"{file.part}.own")
            own.write_text("theirs")
            own.replace(file.part)
            file.finish()
        assert tree(tmp_path) == {"out.txt": b"theirs"}

    def test_it_can_be_sought(self, tmp_path):
        with new_file(tmp_path / "out.txt") as file:
            file.file.write(b"0000")
            file.file.seek(1)
            file.file.write(memoryview(b"12"))
            file.finish()
        assert tree(tmp_path) == {"out.txt": b"0120"}

    def test_it_is_finished_or_removed_once(self, tmp_path):
        file = new_file(tmp_path / "out.txt")
        file.abort()
        file.abort()
        with pytest.raises(ValueError, match="already"):
            file.finish()
        assert tree(tmp_path) == {}

    def test_names_that_look_like_ours_are_the_users(self, tmp_path):
        mine = {name: b"mine" for name in ("out.part.txt", ".part", "out.txt.part", ".out.txt.flashvsr-part")}
        for name, content in mine.items():
            (tmp_path / name).write_bytes(content)
        write_text(tmp_path / "out.txt", "new")
        assert tree(tmp_path) == mine | {"out.txt": b"new"}


class TestStreams:
    @pytest.mark.parametrize("path", ["/dev/null", "pipe"])
    def test_pipes_and_devices_are_written_as_they_are(self, tmp_path, path):
        target = tmp_path / path
        read = []
        if path == "pipe":
            os.mkfifo(target)
            reader = threading.Thread(target=lambda: read.append(target.read_bytes()))
            reader.start()
        write_text(target, "text")
        if path == "pipe":
            reader.join()
            assert read == [b"text"]
            assert stat.S_ISFIFO(target.stat().st_mode)
        assert list(tmp_path.iterdir()) == ([target] if path == "pipe" else [])

    def test_the_file_behind_dev_stdout_is_appended_to(self, tmp_path):
        (tmp_path / "log").write_text("before\n")
        code = "from flashvsr_trt.files.new import write_text; write_text('/dev/stdout', 'after')"
        with (tmp_path / "log").open("ab") as log:
            subprocess.run([sys.executable, "-c", code], stdout=log, check=True)
        assert tree(tmp_path) == {"log": b"before\nafter"}


class TestFolder:
    def test_it_appears_whole(self, tmp_path, filesystem):
        with new_folder(tmp_path / "out") as folder:
            fill(folder, "a", "b")
            assert not (tmp_path / "out").exists()
            folder.finish()
        assert tree(tmp_path) == {"out": None, "out/a": b"new", "out/b": b"new"}

    def test_it_is_as_open_as_any_new_folder(self, tmp_path):
        with new_folder(tmp_path / "out") as folder:
            folder.finish()
        (tmp_path / "other").mkdir()
        assert (tmp_path / "out").stat().st_mode == (tmp_path / "other").stat().st_mode

    def test_it_is_swapped_when_all_of_it_is_ours(self, tmp_path, filesystem):
        (tmp_path / "out").mkdir(mode=0o750)
        (tmp_path / "out" / "1.png").write_text("old")
        with new_folder(tmp_path / "out", overwrite=True, owns=numbered) as folder:
            fill(folder, "2.png")
            folder.finish()
        assert tree(tmp_path) == {"out": None, "out/2.png": b"new"}
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750

    @pytest.mark.parametrize("inside", [False, True])
    def test_other_files_stay(self, tmp_path, monkeypatch, inside):
        out = tmp_path / "out"
        out.mkdir()
        mine = {"notes.txt": b"mine", "sub": None, "sub/1.png": b"mine", ".part": None, ".part/x": b"mine"}
        for name, content in mine.items():
            (out / name).mkdir() if content is None else (out / name).write_bytes(content)
        for name in ("1.png", "2.png", "3.png"):
            (out / name).write_text("old")
        if inside:
            monkeypatch.chdir(out)
        before = out.stat().st_ino
        with new_folder("." if inside else out, overwrite=True, owns=numbered) as folder:
            fill(folder, "1.png", "2.png")
            folder.finish()
        assert tree(out) == mine | {"1.png": b"new", "2.png": b"new"}
        assert out.stat().st_ino == before

    def test_the_folder_the_user_is_in_stays_that_one(self, tmp_path, monkeypatch):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "1.png").write_text("old")
        monkeypatch.chdir(tmp_path / "out")
        with new_folder(".", overwrite=True, owns=numbered) as folder:
            fill(folder, "2.png")
            folder.finish()
        assert os.listdir() == ["2.png"]

    def test_a_link_to_a_folder_means_the_folder(self, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "out").symlink_to("disk")
        with new_folder(tmp_path / "out") as folder:
            fill(folder, "1.png")
            folder.finish()
        assert (tmp_path / "out").is_symlink()
        assert tree(tmp_path / "disk") == {"1.png": b"new"}

    @pytest.mark.parametrize("others", [(), ("notes.txt",)])
    def test_names_that_are_taken_meanwhile_are_kept(self, tmp_path, filesystem, others):
        out = tmp_path / "out"
        out.mkdir()
        for name in others:
            (out / name).write_text("mine")
        with new_folder(out, owns=numbered) as folder:
            fill(folder, "1.png", "2.png")
            (out / "2.png").write_text("theirs")
            with pytest.raises(UsageError, match="came into being"):
                folder.finish()
        assert tree(out) == {"2.png": b"theirs"} | {name: b"mine" for name in others}

    def test_a_folder_that_comes_into_being_meanwhile_is_kept(self, tmp_path, filesystem):
        with new_folder(tmp_path / "out") as folder:
            fill(folder, "1.png")
            (tmp_path / "out").mkdir()
            (tmp_path / "out" / "1.png").write_text("theirs")
            with pytest.raises(UsageError, match="came into being"):
                folder.finish()
        assert tree(tmp_path) == {"out": None, "out/1.png": b"theirs"}

    def test_a_file_put_there_meanwhile_stays(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "1.png").write_text("old")
        with new_folder(tmp_path / "out", overwrite=True, owns=numbered) as folder:
            fill(folder, "2.png")
            (tmp_path / "out" / "notes.txt").write_text("mine")
            folder.finish()
        assert tree(tmp_path / "out") == {"2.png": b"new", "notes.txt": b"mine"}

    def test_a_file_put_there_in_the_moment_of_the_swap_stays(self, tmp_path, monkeypatch):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "1.png").write_text("old")
        swap = files.swap_folders

        def late(new, target, previous):
            Path(target, "notes.txt").write_text("mine")
            return swap(new, target, previous)

        monkeypatch.setattr(files, "swap_folders", late)
        with new_folder(tmp_path / "out", overwrite=True, owns=numbered) as folder:
            fill(folder, "2.png")
            folder.finish()
        assert tree(tmp_path / "out") == {"2.png": b"new", "notes.txt": b"mine"}

    def test_the_old_one_comes_back_when_the_swap_fails(self, tmp_path, monkeypatch):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "1.png").write_text("old")
        monkeypatch.setattr(renames, "_linux_call", lambda: None)
        monkeypatch.setattr(
            renames, "rename_new", lambda *_: (_ for _ in ()).throw(OSError(5, "broken disk"))
        )
        with new_folder(tmp_path / "out", overwrite=True, owns=numbered) as folder:
            fill(folder, "2.png")
            with pytest.raises(OSError, match="broken"):
                folder.finish()
        assert tree(tmp_path) == {"out": None, "out/1.png": b"old"}

    def test_a_file_is_no_folder(self, tmp_path):
        (tmp_path / "out").write_text("mine")
        with pytest.raises(UsageError, match="is a file"):
            new_folder(tmp_path / "out", overwrite=True)

    def test_ours_is_not_replaced_unasked(self, tmp_path):
        (tmp_path / "1.png").write_text("old")
        with pytest.raises(UsageError, match=r"1\.png exists already"):
            new_folder(tmp_path, owns=numbered)


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (errno.ENOSPC, "no space"),
        (errno.EFBIG, "no space"),
        (errno.EPIPE, "reader"),
        (errno.EROFS, "check that the folder"),
        (errno.ENAMETOOLONG, "shorter"),
        (errno.EIO, "check the disk"),
    ],
)
def test_what_the_system_says_is_one_error(code, advice):
    with pytest.raises(FileError, match=advice), write_errors("somewhere/out.mp4"):
        raise OSError(code, os.strerror(code))


def test_what_was_written_is_said_without_what_the_cache_keeps(tmp_path, monkeypatch):
    monkeypatch.setenv("FLASHVSR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(finished, "FINISHED", files := [str(tmp_path / "cache/checked/a.json")])
    assert what_was_written() == "nothing was written"
    files.append("a.mp4")
    assert what_was_written() == "only a.mp4 was written"
    files.append("b.mp4")
    assert what_was_written() == "only 2 outputs were written, b.mp4 as the last"
