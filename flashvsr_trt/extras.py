"""The command that installs an optional part here: from where this package itself was installed."""

import importlib.util
import json
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

import flashvsr_trt

DISTRIBUTION = "flashvsr-trt"

TORCH = "pip install torch"
TORCH_FOR_CUDA = "install torch with CUDA as https://pytorch.org/get-started/locally says for your system"
"""`pip install torch` brings that by itself on Linux alone."""


def is_installed(module: str) -> bool:
    """Whether a module is here. It is not imported; the packages around it are."""
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:  # a package around it is not there, or an import hook refuses it
        return False


def install_command(extra: str, option: str = "") -> str:
    """`pip install ".[rtx]"`, or what else brings the extra: double quotes are for Windows' shells as well.

    Of a checkout, of the wheel, folder or repository that pip took (PEP 610), else of the index that has it.
    """
    words = ["pip install", option, f'"{_requirement(extra)}"']
    return " ".join(filter(None, words))


def environment_command(folder: str, extra: str) -> str:
    """Makes an environment of its own in `folder`, with the extra."""
    if sys.platform == "win32":
        return f"py -m venv {folder} && {folder}\\Scripts\\{install_command(extra)}"
    return f"python3 -m venv {folder} && {folder}/bin/{install_command(extra)}"


def _requirement(extra: str) -> str:
    if len(flashvsr_trt.__path__) > 1:  # the rooms are folders of a checkout
        return _at(Path(flashvsr_trt.__path__[-1]), extra)
    origin = _origin()
    url = urlsplit(origin.get("url", ""))
    if url.scheme == "file":
        return _at(Path(url2pathname(unquote(url.path))), extra)
    if not url.scheme:
        return f"{DISTRIBUTION}[{extra}]"
    system = origin.get("vcs_info", {}).get("vcs")
    return f"{DISTRIBUTION}[{extra}] @ {f'{system}+' if system else ''}{url.geturl()}"


def _at(place: Path, extra: str) -> str:
    """A folder or wheel with the extra; of one that is gone, the name."""
    if place == Path.cwd():
        return f".[{extra}]"
    return f"{place if place.exists() else place.name}[{extra}]"


def _origin() -> dict:
    """What pip noted of where it took the package; nothing for one of an index."""
    try:
        return json.loads(distribution(DISTRIBUTION).read_text("direct_url.json") or "{}")
    except PackageNotFoundError:
        return {}
