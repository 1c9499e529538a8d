"""Every error a user can cause. Each says what was wrong, with the value, and what to do about it."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from flashvsr_trt.extras import TORCH, install_command


class FlashVSRError(Exception):
    """Base of all expected errors: the command line prints one line and exits with `exit_code`."""

    exit_code = 1


class UsageError(FlashVSRError):
    """An option or argument has a value that cannot be used."""

    exit_code = 2


class PresetError(UsageError):
    """No preset, schedule or size of that name or value."""


class WeightsError(FlashVSRError):
    """Checkpoint files are missing, of another version, or do not hold the expected tensors."""


class VideoError(FlashVSRError):
    """The input is not a readable video, or the output cannot be written."""


class TruncatedInputError(VideoError):
    """The input ended early: what could be decoded was used, and the output is kept."""

    exit_code = 3


class FileError(FlashVSRError):
    """A file or folder cannot be written."""


class MissingDependencyError(FlashVSRError):
    """An optional part is not installed; the message names the extra that installs it."""


class DeviceError(FlashVSRError):
    """The device is absent, cannot do what was asked, or has too little memory."""


class DistributedError(FlashVSRError):
    """Ranks of one job differ in what they would run, or one of them ended before the job did."""


class BundleError(FlashVSRError):
    """An exported bundle is missing, damaged, of another version, or cannot be written."""


class SessionError(FlashVSRError):
    """A session that failed or was closed was given more to do."""


class CompareError(FlashVSRError):
    """Two videos cannot be compared: their frames are too small."""


class BenchError(FlashVSRError):
    """A stream is slower than was asked for."""


class ParityError(FlashVSRError):
    """Two backends differ by more than the thresholds of the bundle's precision allow."""


class EngineError(FlashVSRError):
    """An engine cannot be built, or is missing, damaged, or made for something else."""


class CacheError(FlashVSRError):
    """The cache, or an entry of it, cannot be read, written or locked."""


def did_you_mean(word: str, known: Iterable[str], otherwise: str, prefix: str = "") -> str:
    """Advice about a word that is none of the known ones: the nearest, with its prefix, or `otherwise`."""
    words = [each.removeprefix(prefix) for each in known]
    near = difflib.get_close_matches(word.removeprefix(prefix), words, n=1)
    return f"did you mean {prefix}{near[0]}?" if near else otherwise


EXTRAS = {
    "triton": "kernels",
    "cuda": "kernels",
    "onnxruntime": "cpu",
    "onnx": "export",
    "onnxscript": "export",
    "onnx_ir": "export",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "rtx",
}
"""Top-level module -> the extra that brings it."""


@contextmanager
def named_missing_parts() -> Iterator[None]:
    """Inside, torch or a module of EXTRAS that is not there raises MissingDependencyError."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module != "torch" and module not in EXTRAS:
            raise
        command = TORCH if module == "torch" else install_command(EXTRAS[module])
        raise MissingDependencyError(f"this needs {module}, which is not installed: {command}") from error
