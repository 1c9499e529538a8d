"""Opening ONNX Runtime's sessions, and what it says went wrong as an error of ours."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.errors import DeviceError, FlashVSRError, MissingDependencyError
from flashvsr_trt.extras import install_command

try:
    import onnxruntime
except ImportError as error:
    raise MissingDependencyError(
        f"ONNX Runtime is not installed: {install_command('cpu')}; extra onnxruntime is for engines on a GPU"
    ) from error

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"

COMPUTE_TYPES = ("float32", "float16")
"""What numpy and ONNX Runtime's CPU kernels can both hold: not bfloat16."""

ADVICE = "check that memory is free, or export again after `flashvsr-trt cache prune`"

_FATAL_ONLY = 4
_EXTERNAL_FOLDER = "session.model_external_initializers_file_folder_path"
_MODULE = "onnxruntime.capi"


def session_options(folder: Path | None = None, threads: int | None = None) -> Any:
    """Options that say nothing on stderr: what goes wrong is raised.

    Args:
        folder: of the weights that a graph refers to, where it is not read from a file beside them.
        threads: of one operator; None is what OMP_NUM_THREADS says, or else ONNX Runtime's choice.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_ONLY
    if folder:
        options.add_session_config_entry(_EXTERNAL_FOLDER, str(folder))
    options.intra_op_num_threads = threads or _threads_of_environment()
    return options


def _threads_of_environment() -> int:
    """What torch and numpy follow too: idle threads of ONNX Runtime spin. 0 where nothing is said."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def open_session(
    model: Path | bytes, what: str, options: Any, provider: str | tuple[str, dict] = CPU
) -> "onnxruntime.InferenceSession":
    """A session over a graph. Raises DeviceError that names it as `what`."""
    with onnxruntime_errors(f"ONNX Runtime cannot load {what}"):
        return onnxruntime.InferenceSession(model, options, providers=[provider])


def run_session(session: Any, names: Sequence[str], inputs: dict[str, Any], what: str) -> dict[str, Any]:
    """One run on host arrays: the outputs of these names. Raises DeviceError that names it as `what`."""
    with onnxruntime_errors(f"ONNX Runtime failed in {what}"):
        return dict(zip(names, session.run(list(names), inputs), strict=True))


def check_precision(bundle: Bundle) -> None:
    """Raise DeviceError for a bundle whose tensors host arrays cannot hold."""
    if bundle.compute not in COMPUTE_TYPES:
        raise DeviceError(
            f"ONNX Runtime cannot run the {bundle.precision} bundle {bundle.folder}; export it with "
            "--precision fp32"
        )


@contextmanager
def onnxruntime_errors(
    what: str, advice: str = ADVICE, kind: type[FlashVSRError] = DeviceError
) -> Iterator[None]:
    """Turns ONNX Runtime's own exceptions within the block into a `kind` that begins with `what`.

    They have no class in common; with bound tensors a run raises a plain RuntimeError.
    """
    try:
        yield
    except Exception as error:
        if not (type(error) is RuntimeError or type(error).__module__.startswith(_MODULE)):
            raise
        reason = " ".join(str(error).split())[:300]
        raise kind(f"{what} ({reason}); {advice}") from error
