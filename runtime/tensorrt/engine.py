"""Engines of TensorRT and TensorRT-RTX behind `EngineRunner`: loading, binding, running. No torch."""

from collections.abc import Mapping
from typing import Any

from flashvsr_trt.engines.flavours import FLAVOURS
from flashvsr_trt.engines.manifest import EngineSet
from flashvsr_trt.engines.tensorrt_api import load_engine, load_module, logger_of
from flashvsr_trt.errors import EngineError
from flashvsr_trt.runtime.tensorrt.aot_kernels import AotKernels
from flashvsr_trt.runtime.tensorrt.engine_runner import ReportLayer, check_bound
from flashvsr_trt.runtime.tensorrt.runtime_cache import RUNTIME_CACHE, RuntimeCache

_MILLISECOND = 1e-3


class TensorRTRunner(AotKernels):
    """The engines and kernels of one folder. Implements `runtime.tensorrt.engine_runner.EngineRunner`.

    Raises:
        MissingDependencyError: the folder's flavour is not installed.
        EngineError, UsageError, DeviceError: as `AotKernels`.
    """

    keeps_host_memory = True

    def __init__(self, engines: EngineSet) -> None:
        super().__init__(engines)
        self.engines = engines
        self.trt = load_module(FLAVOURS[engines.manifest.key.flavour])
        self.logger = logger_of(self.trt)
        self.runtime = self.trt.Runtime(self.logger)
        self.cache = RuntimeCache(engines.folder / RUNTIME_CACHE)

    def keep_compiled(self) -> None:
        """Only TensorRT-RTX compiles when engines are loaded and run."""
        self.cache.save()

    def load(self, engine: str, stream: int) -> "LoadedEngine":
        """Weights that were stripped are put in from the bundle's file."""
        loaded = load_engine(self.trt, self.runtime, self.engines, engine)
        if self.engines.manifest.key.options.strip_weights:
            self._refit(engine, loaded)
        return LoadedEngine(self.trt, self.logger, engine, loaded, self.cache)

    def _refit(self, engine: str, loaded: Any) -> None:
        refitter = self.trt.Refitter(loaded, self.logger)
        parser = self.trt.OnnxParserRefitter(refitter, self.logger)
        path = str(self.engines.model_path(engine))
        if not parser.refit_from_file(path) or not refitter.refit_cuda_engine():
            raise EngineError(f"{engine} did not take its weights from {path}: {self.logger.reason}")


class LoadedEngine:
    """A deserialised engine. Implements `runtime.tensorrt.engine_runner.Engine`."""

    def __init__(self, trt: Any, logger: Any, name: str, engine: Any, cache: RuntimeCache) -> None:
        self.trt, self.logger, self.name, self.cache = trt, logger, name, cache
        self.engine: Any = engine
        self.memory_bytes = engine.device_memory_size_v2

    def new_context(self, memory: int, report: ReportLayer | None) -> "BoundContext":
        strategy = self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self.logger.clear()
        if hasattr(self.engine, "create_runtime_config"):
            strategy = self.cache.configured(self.name, self.engine, strategy)
        context = self.engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(f"{self.name} cannot be run: {self.logger.reason}")
        if self.memory_bytes:
            context.set_device_memory(memory, self.memory_bytes)
        if report:
            context.profiler = _profiler(self.trt, self.name, report)
        return BoundContext(self, context)

    def close(self) -> None:
        """TensorRT gives the engine's memory back with the last reference to it."""
        self.engine = None


class BoundContext:
    """An execution context. Implements `runtime.tensorrt.engine_runner.EngineContext`."""

    def __init__(self, owner: LoadedEngine, context: Any) -> None:
        self.owner, self.context = owner, context
        self.names = {owner.engine.get_tensor_name(number) for number in range(owner.engine.num_io_tensors)}
        self.bound: Mapping[str, int] = {}

    def bind(self, addresses: Mapping[str, int]) -> None:
        if addresses == self.bound:
            return
        engine, logger = self.owner.name, self.owner.logger
        check_bound(engine, self.names, addresses)
        self.bound = {}
        for name, address in addresses.items():
            logger.clear()
            if not self.context.set_tensor_address(name, address):
                raise EngineError(f"{engine} refuses the address {address:#x} of {name}: {logger.reason}")
        self.bound = dict(addresses)

    def enqueue(self, stream: int) -> None:
        self.owner.logger.clear()
        if not self.context.execute_async_v3(stream):
            raise EngineError(f"{self.owner.name} failed: {self.owner.logger.reason}")

    def can_capture(self, stream: int) -> bool:
        """Only TensorRT-RTX can tell: others always can, in fixed shapes."""
        ask = getattr(self.context, "is_stream_capturable", None)
        return ask is None or ask(stream)


def _profiler(trt: Any, engine: str, report: ReportLayer) -> Any:
    class Profiler(trt.IProfiler):
        def __init__(self) -> None:
            super().__init__()

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            report(engine, layer_name, ms * _MILLISECOND)

    return Profiler()
