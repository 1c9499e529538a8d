"""The engines that a bundle is compared with, opened on the GPU."""

from pathlib import Path

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.cache.entries import mark_in_use
from flashvsr_trt.engines.flavours import FLAVOURS, supported_version
from flashvsr_trt.engines.manifest import EngineSet
from flashvsr_trt.errors import EngineError
from flashvsr_trt.notices import Notify
from flashvsr_trt.runtime.tensorrt import open as tensorrt_open
from flashvsr_trt.runtime.tensorrt.executor import TensorRTExecutor
from flashvsr_trt.runtime.tensorrt.named_engines import check_flavour, find_named_engines


def open_engines_of(bundle: Bundle, folder: Path, flavour: str, notify: Notify) -> TensorRTExecutor:
    """An executor on engines of a bundle.

    Args:
        folder: of one set of engines, or of several, of which the best is taken.
        flavour: theirs, or "auto".

    Raises:
        DeviceError: no GPU, or too little memory on it.
        EngineError: none of that bundle, or none that this machine can run; says why not.
        UsageError: no such folder.
        MissingDependencyError: their flavour is not installed.
    """
    found = tensorrt_open.find_device("auto")

    def check(engines: EngineSet) -> None:
        check_flavour(engines, flavour)
        check_bundle(engines, bundle)
        supported_version(FLAVOURS[engines.manifest.key.flavour])
        tensorrt_open.check_engines(engines, found.name, found.capability)
        engines.check_contents()

    engines = find_named_engines(folder, check, notify)
    mark_in_use(engines.folder)
    return tensorrt_open.open_engines_on(tensorrt_open.CudaDevice(0), engines)


def check_bundle(engines: EngineSet, bundle: Bundle) -> None:
    """Raise EngineError if engines were built of another bundle."""
    own = {name: file.sha256 for name, file in bundle.graphs.items()} | {
        "weights": bundle.weights.file.sha256
    }
    built = dict(engines.manifest.key.graphs) | {"weights": engines.manifest.key.weights}
    differ = sorted(name for name in own | built if own.get(name) != built.get(name))
    if differ:
        raise EngineError(
            f"{engines.folder} holds engines of another bundle than {bundle.folder}: "
            f"{differ[0]} differs; build them with `flashvsr-trt engines build --bundle {bundle.folder}`"
        )
