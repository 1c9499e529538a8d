"""Pulling verifies every checksum, and every failure is one line. The network is replaced at its seams."""

import hashlib
import io
import re
import urllib.error
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub.hf_api import RepoFile

from flashvsr_trt.errors import WeightsError
from flashvsr_trt.model.weights import download as weights_download
from flashvsr_trt.model.weights.download import pull_weights
from flashvsr_trt.model.weights.published import NETWORK_FILES, PROMPT_URL, REPOSITORY, PublishedFile
from flashvsr_trt.model.weights.source import prompt_cache

PROMPT = b"prompt"


def sha256(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


class Hub:
    """A repository of three small files, as huggingface_hub shows it."""

    def __init__(self, cache: Path) -> None:
        self.cache = cache
        self.files = {file.name: f"contents of {file.part}".encode() for file in NETWORK_FILES}
        self.checksums = {name: sha256(contents) for name, contents in self.files.items()}
        self.asked: list[tuple] = []

    def get_paths_info(self, repository, paths, *, revision):
        self.asked.append((repository, revision))
        return [
            RepoFile(
                path=name, size=1, oid=name, lfs={"oid": self.checksums[name], "size": 1, "pointerSize": 1}
            )
            for name in paths
            if name in self.checksums
        ]

    def hf_hub_download(self, repository, name, *, revision, local_dir):
        self.asked.append((repository, revision))
        directory = Path(local_dir or self.cache / "snapshot")
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / name
        if local_dir is None:
            blob = self.cache / self.checksums[name]
            blob.write_bytes(self.files[name])
            path.symlink_to(blob)
        else:
            path.write_bytes(self.files[name])
        return str(path)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    hub = Hub(tmp_path / "cache")
    hub.cache.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub, "get_paths_info", hub.get_paths_info)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hub.hf_hub_download)
    monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(PROMPT))
    known = [PublishedFile(file.part, file.name, 0, hub.checksums[file.name]) for file in NETWORK_FILES]
    monkeypatch.setattr(weights_download, "NETWORK_FILES", known)
    prompt = PublishedFile("prompt", "posi_prompt.pth", len(PROMPT), sha256(PROMPT))
    monkeypatch.setattr(weights_download, "PROMPT_FILE", prompt)
    return hub


def test_a_directory_gets_all_four_files(hub, tmp_path):
    lines = []
    directory = pull_weights(directory=tmp_path / "w", report=lines.append)
    assert directory == tmp_path / "w"
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == hub.files | {
        "posi_prompt.pth": PROMPT
    }
    assert len(lines) == 4
    assert all("sha256 verified" in line for line in lines)
    assert set(hub.asked) == {(REPOSITORY, "main")}


def test_without_a_directory_the_caches_get_them(hub):
    directory = pull_weights(report=lambda line: None)
    assert directory == hub.cache / "snapshot"
    assert prompt_cache().read_bytes() == PROMPT


def test_the_revision_and_the_repository_are_the_arguments(hub, tmp_path):
    pull_weights("someone/else", "1234abcd", tmp_path / "w", report=lambda line: None)
    assert set(hub.asked) == {("someone/else", "1234abcd")}


@pytest.mark.parametrize("cached", [True, False])
def test_a_file_that_arrives_damaged_is_removed_with_its_blob(hub, tmp_path, cached):
    name = NETWORK_FILES[1].name
    hub.files[name] = b"damaged"
    with pytest.raises(WeightsError, match=f"{name} arrived with sha256 {sha256(b'damaged')}, expected"):
        pull_weights(directory=None if cached else tmp_path / "w", report=lambda line: None)
    left = [path.name for path in tmp_path.rglob("*")]
    assert name not in left
    assert hub.checksums[name] not in left


def test_files_that_this_release_does_not_know_are_refused_before_the_download(hub, tmp_path):
    hub.checksums[NETWORK_FILES[2].name] = sha256(b"new")
    with pytest.raises(WeightsError, match=r"another TCDecoder\.ckpt than this release knows.*--revision"):
        pull_weights(directory=tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_another_repository_is_verified_against_its_own_checksums(hub, tmp_path):
    name = NETWORK_FILES[2].name
    hub.files[name] = b"fine-tuned"
    hub.checksums[name] = sha256(b"fine-tuned")
    pull_weights("someone/else", directory=tmp_path / "w", report=lambda line: None)
    assert (tmp_path / "w" / name).read_bytes() == b"fine-tuned"


def test_a_repository_without_the_files_is_named(hub, tmp_path):
    del hub.checksums[NETWORK_FILES[0].name]
    with pytest.raises(WeightsError, match=r"at v0 has no LQ_proj_in\.ckpt: check --repo and --revision"):
        pull_weights("someone/else", "v0", tmp_path / "w")


class UnknownHttpError(Exception):
    """Stands for any HTTP library's own error class."""


@pytest.mark.parametrize("seam", ["get_paths_info", "hf_hub_download"])
@pytest.mark.parametrize("error", [UnknownHttpError("Name or\nservice not known"), TimeoutError()])
def test_a_network_failure_is_one_line_with_what_to_do(hub, monkeypatch, tmp_path, seam, error):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, seam, fail)
    with pytest.raises(WeightsError, match="continues where it stopped") as caught:
        pull_weights(directory=tmp_path / "w")
    assert "\n" not in str(caught.value)
    assert REPOSITORY in str(caught.value)


@pytest.mark.parametrize("name", [NETWORK_FILES[1].name, "posi_prompt.pth"])
def test_a_users_file_of_that_name_is_kept(hub, tmp_path, name):
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / name).write_bytes(b"mine")
    with pytest.raises(WeightsError, match=rf"{re.escape(name)} is there .* it is kept"):
        pull_weights(directory=tmp_path / "w", report=lambda line: None)
    assert (tmp_path / "w" / name).read_bytes() == b"mine"


class TestPrompt:
    def test_a_verified_one_is_not_fetched_again(self, hub, monkeypatch, tmp_path):
        pull_weights(directory=tmp_path / "w", report=lambda line: None)
        monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: pytest.fail("fetched again"))
        pull_weights(directory=tmp_path / "w", report=lambda line: None)

    def test_a_failure_says_how_to_save_it_by_hand(self, hub, monkeypatch, tmp_path):
        def fail(url, timeout):
            raise urllib.error.URLError("no route to host")

        monkeypatch.setattr("urllib.request.urlopen", fail)
        with pytest.raises(WeightsError, match="no route to host") as caught:
            pull_weights(directory=tmp_path / "w", report=lambda line: None)
        assert PROMPT_URL in str(caught.value)
        assert str(tmp_path / "w" / "posi_prompt.pth") in str(caught.value)

    @pytest.mark.parametrize("contents", [b"", b"other", PROMPT + b"more"])
    def test_other_contents_never_get_the_name(self, hub, monkeypatch, tmp_path, contents):
        monkeypatch.setattr("urllib.request.urlopen", lambda url, timeout: io.BytesIO(contents))
        with pytest.raises(WeightsError, match=r"posi_prompt\.pth arrived with sha256"):
            pull_weights(directory=tmp_path / "w", report=lambda line: None)
        assert {path.name for path in (tmp_path / "w").iterdir()} == set(hub.files)
