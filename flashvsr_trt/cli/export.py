"""`flashvsr-trt export`, `parity` and `inspect`: the stages as ONNX, compared and looked into."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flashvsr_trt.bundle import MANIFEST, Bundle, read_bundle
from flashvsr_trt.cache.folder import cache_folder
from flashvsr_trt.cli.commands import Command
from flashvsr_trt.cli.display import say
from flashvsr_trt.cli.options import COUNT, JSON, STREAM_OPTIONS, OutputPath, stream_of
from flashvsr_trt.cli.terminal import print_table
from flashvsr_trt.errors import ParityError, UsageError

if TYPE_CHECKING:
    # The commands import torch and onnx themselves, so that `--help` does not wait for them.
    from flashvsr_trt.export.inspect_graph import GraphReport
    from flashvsr_trt.parity.check import ParityResult
    from flashvsr_trt.parity.tensor_error import TensorError

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command(cls=Command)
@STREAM_OPTIONS
@click.option(
    "--own-weights",
    is_flag=True,
    help="Write the weights even where a bundle beside has them: `onnx.load` refuses shared files.",
)
@click.option(
    "-o", "--output", type=OutputPath(file_okay=False), help="Folder to make.  [default: bundles/ and a name]"
)
def export(
    precision: str, weights: str | None, own_weights: bool, output: Path | None, **options: Any
) -> None:
    """Export the three stages to ONNX: one folder of graphs, weights and a manifest.

    Bundles in one folder that have the same weights and precision share the file on disk.
    """
    stream = stream_of(**options)
    from flashvsr_trt.export.export_bundle import export_bundle

    height, width = stream.geometry.upscaled
    size = f"{width}x{height}-{stream.geometry.scale}x"
    folder = output or Path("bundles") / f"{stream.preset.name}-{size}-{stream.schedule.name}-{precision}"
    bundle = export_bundle(stream, weights, precision, folder, say, not own_weights)
    megabytes = sum(file.size_bytes for file in bundle.files) / 1e6
    click.echo(f"{folder}: {len(bundle.graphs)} graphs, {megabytes:,.0f} MB")


@click.command(cls=Command)
@click.argument("bundle", type=_FOLDER)
@click.option("--against", type=click.Choice(["torch"]), default="torch")
@click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "tensorrt"]),
    help="What to compare: the graphs, or engines.  [default: tensorrt with --engines, else onnxruntime]",
)
@click.option(
    "--engines",
    metavar="DIR|NAME",
    help="A set of BUNDLE's engines, or a folder of sets.  [default: the cache]",
)
@click.option("--flavour", default="auto", metavar="F", help="Of the engines.")
@click.option("--frames", type=COUNT, default=70, help="Of the synthetic clip.")
@click.option("--weights", metavar="W", help="The bundle's weights.  [default: as it was exported]")
@click.option("--bisect", is_flag=True, help="Find the first tensor that diverges inside a graph.")
@JSON
def parity(
    bundle: Path,
    against: str,
    backend: str | None,
    engines: str | None,
    flavour: str,
    frames: int,
    weights: str | None,
    bisect: bool,
    as_json: bool,
) -> None:
    """Compare BUNDLE with the torch stages, by graph, by tensor and end to end; exit 1 if they differ.

    Engines of BUNDLE are compared in their own dtype, on a GPU; graphs on the CPU, a bf16 bundle in float32.
    """
    backend = backend or ("tensorrt" if engines else "onnxruntime")
    opened = read_bundle(bundle)
    if backend == "tensorrt":
        result = _engine_parity(opened, engines, flavour, frames, weights, bisect)
    else:
        if engines or flavour != "auto":
            raise UsageError("--engines and --flavour belong to --backend tensorrt, not to onnxruntime")
        from flashvsr_trt.parity.check import bundle_network, check_parity

        result = check_parity(opened, bundle_network(opened, weights), frames, bisect)
    report = result.report
    if as_json:
        found = result.divergence
        inside = {"node": found.node, "tensor": found.error.tensor} if found else None
        click.echo(json.dumps(report.as_dict() | {"first_diverging_node": inside}, indent=2))
    else:
        _print_parity(result, f"{backend} against {against}, {opened.precision}")
        click.echo("FAILED" if report.first_diverging else "PASSED")
    if report.first_diverging:
        where = f"; first inside it: {result.divergence.node}" if result.divergence else ""
        names = ", ".join(f"{error.graph} {error.tensor}" for error in report.exceeded[:3])
        raise ParityError(
            f"{bundle} diverges in {report.first_diverging} ({len(report.exceeded)} tensors: {names}){where}"
        )


def _engine_parity(
    bundle: Bundle, engines: str | None, flavour: str, frames: int, weights: str | None, bisect: bool
) -> "ParityResult":
    if bisect:
        raise UsageError(
            "--bisect looks inside a graph, and an engine has no inside: use it without --engines"
        )
    from flashvsr_trt.parity.check import bundle_network, check_engines
    from flashvsr_trt.parity.engine_stages import open_engines_of

    kept = cache_folder("engines")
    folder = kept if engines is None else Path(engines) if Path(engines).is_dir() else kept / engines
    executor = open_engines_of(bundle, folder, flavour, say)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return check_engines(executor, bundle_network(bundle, weights, device), frames)


@click.command(cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@JSON
def inspect(path: Path, as_json: bool) -> None:
    """Say what is in PATH, a bundle or an .onnx file: nodes, parameters, work and memory."""
    from flashvsr_trt.export.inspect_graph import inspect_bundle, inspect_file

    is_bundle = path.is_dir() or path.name == MANIFEST
    folder = path if path.is_dir() else path.parent
    reports = inspect_bundle(read_bundle(folder)) if is_bundle else [inspect_file(path)]
    if as_json:
        click.echo(json.dumps([report.as_dict() for report in reports], indent=2))
        return
    print_table(_GRAPH_COLUMNS, reports)
    for report in reports:
        counts = ", ".join(f"{label} {count}" for label, count in report.node_counts.items())
        click.echo(f"{report.name}: {counts}")


_GRAPH_COLUMNS: "dict[str, Callable[[GraphReport], str]]" = {
    "graph": lambda report: report.name,
    "nodes": lambda report: f"{report.nodes:,}",
    "custom nodes": lambda report: str(sum(report.custom_nodes.values())),
    "parameters": lambda report: f"{report.parameters:,}",
    "weights MB": lambda report: f"{report.parameter_bytes / 1e6:,.1f}",
    "GFLOP": lambda report: f"{report.flops / 1e9:,.1f}",
    "in MB": lambda report: f"{report.input_bytes / 1e6:,.1f}",
    "out MB": lambda report: f"{report.output_bytes / 1e6:,.1f}",
    "state MB": lambda report: "-" if report.state_bytes is None else f"{report.state_bytes / 1e6:,.1f}",
}


def _print_parity(result: "ParityResult", title: str) -> None:
    limits = result.report.thresholds
    columns: dict[str, Callable[[TensorError], str]] = {
        "graph": lambda error: error.graph,
        "tensor": lambda error: error.tensor,
        "calls": lambda error: str(error.calls),
        "max abs": lambda error: f"{error.max_absolute:.2e}",
        "mean abs": lambda error: f"{error.mean_absolute:.2e}",
        "max rel": lambda error: f"{error.max_relative:.2e}",
        "mean rel": lambda error: f"{error.mean_relative:.2e}",
        "cosine": lambda error: f"{error.cosine:.7f}",
        "PSNR": lambda error: "-" if error.psnr is None else f"{error.psnr:.1f}",
        "mask": lambda error: "-" if error.mask_agreement is None else f"{error.mask_agreement:.4f}",
        "": lambda error: "EXCEEDS" if error.exceeds(limits) else "ok",
    }
    click.echo(title)
    print_table(columns, result.report.tensors)
