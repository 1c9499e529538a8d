"""One ONNX file to one engine file."""

import os
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx

from flashvsr_trt.engines.flavours import Target
from flashvsr_trt.engines.layers import write_layers
from flashvsr_trt.engines.lowering import custom_nodes
from flashvsr_trt.engines.manifest import EngineFile, built_file
from flashvsr_trt.engines.options import DEFAULT_OPTIONS, BuildOptions
from flashvsr_trt.engines.progress_monitor import Cancellation, ReportPhase, progress_monitor
from flashvsr_trt.engines.tensorrt_api import (
    BUILDER_LOG,
    Bindings,
    built_layers,
    check_bindings,
    configure,
    create_network,
    keep_channels_last,
    load_module,
    logger_of,
    network_bindings,
    one_line,
    parse_errors,
)
from flashvsr_trt.engines.timing_cache import keep_timings
from flashvsr_trt.errors import EngineError
from flashvsr_trt.files.new import write_bytes, write_errors


@dataclass(frozen=True)
class BuildSetting:
    """What all engines of a folder are built with.

    Attributes:
        plugins: operators that plugins are registered for, as "domain::operator".
        timing_cache: file of what builders measured before; it is read, and written again.
    """

    target: Target
    options: BuildOptions = DEFAULT_OPTIONS
    plugins: tuple[str, ...] = ()
    timing_cache: Path | None = None


def build_engine_file(
    model_path: Path,
    engine_path: Path,
    bindings: Bindings,
    channels_last: frozenset[str],
    setting: BuildSetting,
    cancellation: Cancellation,
    report: ReportPhase = lambda phase, done, steps: None,
) -> EngineFile:
    """Parse, check and build; the engine appears under its name only when it is whole.

    Args:
        model_path: a graph with no custom nodes but plugins; its weights are in the file that it refers to.
        bindings: the inputs and outputs that the graph must have.
        channels_last: those that are kept with channels innermost.

    Raises:
        EngineError: with the builder's own words and, where it tells, the ONNX node.
        KeyboardInterrupt: the build was cancelled.
    """
    started = time.perf_counter()
    target = setting.target
    refuse_custom_nodes(model_path, setting.plugins)
    trt = load_module(target.flavour)
    logger = logger_of(trt)
    logger.clear()
    builder = trt.Builder(logger)
    network = create_network(trt, builder)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model_path)):
        problems = one_line(parse_errors(parser) or logger.errors)
        raise EngineError(f"{target.flavour.title} cannot parse {model_path.name}: {problems}")
    check_bindings(network_bindings(trt, network), bindings, model_path.name, "export the bundle again")
    keep_channels_last(trt, network, channels_last)
    config = builder.create_builder_config()
    configure(trt, config, target, setting.options)
    monitor = progress_monitor(trt, cancellation, report)
    config.progress_monitor = monitor
    with _stdout_for_data(), keep_timings(config, setting.timing_cache):
        plan = builder.build_serialized_network(network, config)
    monitor.raise_failure()
    cancellation.check()
    if plan is None:
        raise EngineError(f"{target.flavour.title} cannot build {model_path.name}: {logger.reason}")
    with write_errors(engine_path, EngineError):
        write_bytes(engine_path, plan)
    write_layers(engine_path.parent, engine_path.stem, built_layers(trt, logger, target.flavour, plan))
    return built_file(engine_path, started)


def refuse_custom_nodes(model_path: Path, plugins: Collection[str] = ()) -> None:
    """Raise EngineError if a graph has others: a parser that does not know one ends the process."""
    model = onnx.load(model_path, load_external_data=False)
    found = [node for node in custom_nodes(model) if not node.endswith(tuple(f"({p})" for p in plugins))]
    found += [f"function {function.name}" for function in model.functions]
    if found:
        raise EngineError(
            f"{model_path.name} holds {len(found)} custom nodes, the first is {found[0]}: a graph is lowered "
            "before it is built"
        )


@contextmanager
def _stdout_for_data() -> Iterator[None]:
    """The builder's native code prints notes on stdout: they go to the log."""
    sys.stdout.flush()
    stdout = os.dup(1)
    with tempfile.TemporaryFile() as notes:
        try:
            os.dup2(notes.fileno(), 1)
            yield
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)
            notes.seek(0)
            for line in notes.read().decode(errors="backslashreplace").splitlines():
                BUILDER_LOG.info("%s", line)
