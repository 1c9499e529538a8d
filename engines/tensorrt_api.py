"""What differs between TensorRT 10.15-11.x and TensorRT-RTX, in one place. Modules are imported lazily."""

import functools
import importlib
import logging
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.config.signatures import Role, TensorSpec
from flashvsr_trt.engines.flavours import FLAVOURS, RTX, Flavour, Target
from flashvsr_trt.engines.layers import HEADING as LAYERS_HEADING
from flashvsr_trt.engines.layers import Layer, layers_of_inspector, layers_of_log
from flashvsr_trt.engines.manifest import BUILD_AGAIN, EngineSet
from flashvsr_trt.engines.options import DEFAULT_OPTIONS, BuildOptions
from flashvsr_trt.errors import EngineError, MissingDependencyError
from flashvsr_trt.extras import install_command

Bindings = Mapping[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of an engine's inputs and outputs by name."""


CHANNEL_MULTIPLE = 8
"""HWC8 pads the channels of a pixel to a multiple of this: others stay row-major, so that no size changes."""

HALF_DTYPES = ("float16", "bfloat16")

IMAGE_RANK = 4

BUILDER_LOG = logging.getLogger("flashvsr_trt.builder")
"""Warnings of builders and runtimes at INFO, their chatter at DEBUG: they are for who looks for a fault."""


def load_module(flavour: Flavour) -> ModuleType:
    """The flavour's Python module. Raises MissingDependencyError naming the extra."""
    try:
        return importlib.import_module(flavour.module)
    except ImportError as error:
        raise MissingDependencyError(
            f"{flavour.name} engines need {flavour.title} ({error}): {install_command(flavour.extra)}"
        ) from error


@functools.cache
def logger_of(trt: ModuleType) -> Any:
    """The process's one logger: TensorRT complains of a second. `clear` begins what a reader looks at.

    It keeps `errors`, of which `reason` is one line, and in `layers` what a builder says of its engine. What
    else is said goes to the log of builders.
    """

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.layers: list[str] = []

        def log(self, severity, message: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(message)
            elif message.startswith(LAYERS_HEADING):
                self.layers.append(message)
            else:
                level = logging.INFO if severity == trt.ILogger.WARNING else logging.DEBUG
                BUILDER_LOG.log(level, "%s", message)

        def clear(self) -> None:
            self.errors.clear()
            self.layers.clear()

        @property
        def reason(self) -> str:
            return one_line(self.errors)

    return Logger()


def one_line(problems: Sequence[str]) -> str:
    """What went wrong, for a message."""
    return "; ".join(" ".join(problem.split()) for problem in problems) or "it gave no reason"


def load_engine(trt: ModuleType, runtime: Any, engines: EngineSet, name: str) -> Any:
    """A deserialised engine. Raises EngineError with the runtime's own words."""
    logger = logger_of(trt)
    logger.clear()
    loaded = runtime.deserialize_cuda_engine(engines.read_engine(name))
    if loaded is None:
        title = FLAVOURS[engines.manifest.key.flavour].title
        raise EngineError(f"{title} cannot load {engines.engine_path(name)}: {logger.reason}; {BUILD_AGAIN}")
    return loaded


def create_network(trt: ModuleType, builder: Any) -> Any:
    """An empty strongly typed network. TensorRT 11 knows no other and may drop the flag."""
    flags = getattr(trt, "NetworkDefinitionCreationFlag", None)
    chosen = 0
    # Plugins with both implementations embed the compiled one: engines then need no Python.
    for name in ("STRONGLY_TYPED", "PREFER_AOT_PYTHON_PLUGINS"):
        flag = getattr(flags, name, None)
        chosen |= 0 if flag is None else 1 << int(flag)
    return builder.create_network(chosen)


def configure(trt: ModuleType, config: Any, target: Target, options: BuildOptions = DEFAULT_OPTIONS) -> None:
    """Set what a build is asked for. Flags that a version lacks are those whose behaviour it always has.

    Float32 is computed as float32 in every engine. TF32, on by default, rounds factors to 10 bits: other
    blocks would be selected, and no parity check could be exact.
    """
    config.clear_flag(trt.BuilderFlag.TF32)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mb << 20)
    if options.strip_weights:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
        config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
    if target.flavour is RTX:
        config.num_compute_capabilities = 1
        name = "SM" + target.capability.replace(".", "")
        config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
        # A CUDA graph of the whole stream can only hold engines that allocate nothing themselves.
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED


def built_layers(trt: ModuleType, logger: Any, flavour: Flavour, plan: Any) -> tuple[Layer, ...]:
    """What a builder made of a graph: as TensorRT-RTX logs it, or as TensorRT's engine says on its GPU.

    Raises:
        EngineError: the engine that was just built cannot be loaded.
    """
    if flavour.portable:
        return layers_of_log(logger.layers)
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineError(f"{flavour.title} cannot load what it built: {logger.reason}")
    inspector = engine.create_engine_inspector()
    return layers_of_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def parse_errors(parser: Any) -> list[str]:
    """What a parser says went wrong: the ONNX node, its operator, and the parser's own words."""
    found = []
    for number in range(parser.num_errors):
        error = parser.get_error(number)
        found.append(f"node {error.node_name() or error.node()} ({error.node_operator()}): {error.desc()}")
    return found


def network_bindings(trt: ModuleType, network: Any) -> Bindings:
    return {t.name: (tensor_dtype(trt, t.dtype), tuple(t.shape)) for t in _edge(network)}


def channels_last(bundle: Bundle, graph: str) -> frozenset[str]:
    """Names of a graph's state, as it goes in and as it comes out, that is kept with channels innermost.

    Convolutions in 16 bits read and write that. In the row-major format every frame of state would be
    transposed twice a step. A runtime makes it of zeros and hands it back as it came: it never looks inside.
    """

    def kept_so(spec: TensorSpec | None) -> bool:
        return (
            spec is not None
            and spec.role is Role.STATE
            and bundle.dtype_of(spec) in HALF_DTYPES
            and len(spec.shape) == IMAGE_RANK
            and spec.shape[1] % CHANNEL_MULTIPLE == 0
        )

    signature = bundle.signatures[graph]
    read = {spec.name for spec in signature.graph_inputs if kept_so(spec)}
    return frozenset(read | {spec.name for spec in signature.graph_outputs if kept_so(spec.becomes)})


def keep_channels_last(trt: ModuleType, network: Any, names: frozenset[str]) -> None:
    """Ask for HWC8 for the inputs and outputs of these names."""
    for tensor in _edge(network):
        if tensor.name in names:
            tensor.allowed_formats = 1 << int(trt.TensorFormat.HWC8)


def _edge(network: Any) -> list[Any]:
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    return inputs + [network.get_output(i) for i in range(network.num_outputs)]


def engine_bindings(trt: ModuleType, engine: Any) -> Bindings:
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    return {
        name: (tensor_dtype(trt, engine.get_tensor_dtype(name)), tuple(engine.get_tensor_shape(name)))
        for name in names
    }


def check_bindings(found: Bindings, planned: Bindings, what: str, advice: str) -> None:
    """Raise EngineError unless what was found is bound as planned."""
    for name in sorted(found.keys() | planned.keys()):
        if found.get(name) != planned.get(name):
            raise EngineError(
                f"{what} has {name} as {found.get(name)}, and its plan binds {planned.get(name)}; {advice}"
            )


def tensor_dtype(trt: ModuleType, dtype: Any) -> str:
    """A TensorRT dtype as `signatures` spell it."""
    names = {
        trt.DataType.FLOAT: "float32",
        trt.DataType.HALF: "float16",
        trt.DataType.BF16: "bfloat16",
        trt.DataType.INT32: "int32",
        trt.DataType.INT64: "int64",
        trt.DataType.BOOL: "bool",
        trt.DataType.UINT8: "uint8",
    }
    return names.get(dtype, str(dtype))
