"""Downloading the published files, with every checksum verified."""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import huggingface_hub

from flashvsr_trt.errors import WeightsError
from flashvsr_trt.files.folder import sha256_of
from flashvsr_trt.files.new import new_file
from flashvsr_trt.model.weights.published import NETWORK_FILES, PROMPT_FILE, PROMPT_URL, REPOSITORY
from flashvsr_trt.model.weights.source import prompt_cache

_TIMEOUT_S = 30

T = TypeVar("T")


def pull_weights(
    repository: str = REPOSITORY,
    revision: str = "main",
    directory: Path | None = None,
    report: Callable[[str], None] = print,
) -> Path:
    """Download the three networks and the prompt; a file that is already there is verified and kept.

    Args:
        repository: Hugging Face repository; the default one must have the checksums of published.py.
        revision: branch, tag or commit.
        directory: where to put the files; None is the Hugging Face cache, and `prompt_cache`.
        report: gets one line a file.

    Returns:
        The directory of the networks.

    Raises:
        WeightsError: network failure, unknown repository or revision, or a checksum that differs. An
            interrupted download continues at the next call.
    """
    expected = _hub_checksums(repository, revision)
    for file in NETWORK_FILES:
        if directory and _is_there(directory / file.name, expected[file.name]):
            report(f"{directory / file.name}: sha256 verified")
            continue
        path = Path(
            _ask_hub(
                lambda name=file.name: huggingface_hub.hf_hub_download(
                    repository, name, revision=revision, local_dir=directory
                ),
                f"{repository}/{file.name} at {revision}",
            )
        )
        _verify(path, file.name, expected[file.name])
        report(f"{path}: sha256 verified")
        directory_of_networks = path.parent
    prompt = prompt_cache() if directory is None else directory / PROMPT_FILE.name
    if directory is None or not _is_there(prompt, PROMPT_FILE.sha256):
        _download_prompt(prompt)
    report(f"{prompt}: sha256 verified")
    return directory or directory_of_networks


def _hub_checksums(repository: str, revision: str) -> dict[str, str]:
    """Name -> sha256 of the networks' files, from the hub's LFS metadata."""
    names = [file.name for file in NETWORK_FILES]
    infos = _ask_hub(
        lambda: huggingface_hub.get_paths_info(repository, names, revision=revision),
        f"{repository} at {revision}",
    )
    files = [info for info in infos if isinstance(info, huggingface_hub.hf_api.RepoFile)]
    found = {file.path: file.lfs.sha256 for file in files if file.lfs}
    missing = [name for name in names if name not in found]
    if missing:
        raise WeightsError(
            f"{repository} at {revision} has no {', '.join(missing)}: check --repo and --revision"
        )
    changed = [file.name for file in NETWORK_FILES if found[file.name] != file.sha256]
    if repository == REPOSITORY and changed:
        raise WeightsError(
            f"{repository} at {revision} has another {', '.join(changed)} than this release knows: "
            "choose a commit that has the known files with --revision"
        )
    return found


def _is_there(path: Path, expected: str) -> bool:
    """Whether the user's directory has the file already. Raises WeightsError where it is another one."""
    if not path.exists():
        return False
    found = sha256_of(path)
    if found != expected:
        raise WeightsError(
            f"{path} is there with sha256 {found}, expected {expected}: it is kept; move it, or choose "
            "another directory with -o"
        )
    return True


def _ask_hub(call: Callable[[], T], what: str) -> T:
    try:
        return call()
    # The hub client's HTTP library, and so the class of a failed connection, changes between releases.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"cannot get {what} from Hugging Face: {reason}. Check the connection and run the command again: "
            "it continues where it stopped"
        ) from error


def _verify(path: Path, name: str, expected: str) -> None:
    found = sha256_of(path)
    if found == expected:
        return
    # A cached file is a link to its blob: both go, or the next download would keep the damaged blob.
    path.resolve().unlink()
    path.unlink(missing_ok=True)
    raise _damaged(name, found, expected)


def _damaged(name: str, found: str, expected: str) -> WeightsError:
    return WeightsError(
        f"{name} arrived with sha256 {found}, expected {expected}: it was removed; run the command again"
    )


def _download_prompt(path: Path) -> None:
    if path.is_file() and sha256_of(path) == PROMPT_FILE.sha256:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with (
            new_file(path, overwrite=True) as file,
            urllib.request.urlopen(PROMPT_URL, timeout=_TIMEOUT_S) as response,
        ):
            content = response.read(PROMPT_FILE.size + 1)
            found = hashlib.sha256(content).hexdigest()
            if found != PROMPT_FILE.sha256:
                raise _damaged(path.name, found, PROMPT_FILE.sha256)
            file.file.write(content)
            file.finish()
    except (urllib.error.URLError, OSError) as error:
        raise WeightsError(f"cannot get {PROMPT_URL}: {error}; or save it yourself as {path}") from error
