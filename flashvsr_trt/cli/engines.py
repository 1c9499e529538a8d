"""`flashvsr-trt engines`: build, list, show, prune and verify TensorRT and TensorRT-RTX engines."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from flashvsr_trt.bundle import read_bundle
from flashvsr_trt.cache.folder import cache_folder
from flashvsr_trt.cli.cache import remove_entries
from flashvsr_trt.cli.commands import Group, Option
from flashvsr_trt.cli.display import say
from flashvsr_trt.cli.options import JSON, MEGABYTES, STREAM_OPTIONS, compute_capability, stream_of
from flashvsr_trt.errors import EngineError, UsageError

if TYPE_CHECKING:
    # The commands import onnx and TensorRT themselves, so that `--help` does not wait for them.
    from flashvsr_trt.engines.manifest import EngineSet

_FOLDER = click.Path(path_type=Path, file_okay=False)
_ROOT = click.option("--engines", "root", type=_FOLDER, help="Folder of engines.  [default: in the cache]")
_FAILED = "failed"


@click.group(cls=Group)
def engines() -> None:
    """Build and keep engines: TensorRT-RTX for GeForce and RTX PRO, TensorRT for data-centre GPUs."""


@engines.command()
@STREAM_OPTIONS
@click.option("--bundle", type=_FOLDER, help="Build from this bundle; the options above are then its own.")
@click.option("--flavour", default="auto", metavar="F", help="rtx, tensorrt, onnxruntime or auto.")
@click.option(
    "--arch",
    "device_arch",
    cls=Option,
    aliases=("--device-arch",),
    callback=lambda context, option, name: name and compute_capability(name),
    metavar="N.N",
    help="Compute capability: 8.9, or sm_89.  [default: of the GPU here, or 8.9]",
)
@click.option("--cut", is_flag=True, help="Launch kernels between engines, where plugins could be inside.")
@click.option("--strip-weights", is_flag=True, help="Leave weights out, to share one file; needs a GPU.")
@click.option("--optimization-level", type=click.IntRange(0, 5), help="0 to 5.  [default: the builder's]")
@click.option("--workspace", "workspace_mb", type=MEGABYTES, metavar="MB", help="Of a kernel, at most.")
@click.option(
    "--large-shared-memory",
    is_flag=True,
    help="Let TensorRT time kernels of more than 48 KB as well, which it may fail to launch; then verify.",
)
@_ROOT
@click.pass_context
def build(
    context: click.Context,
    precision: str,
    weights: str | None,
    bundle: Path | None,
    flavour: str,
    device_arch: str | None,
    cut: bool,
    strip_weights: bool,
    optimization_level: int | None,
    workspace_mb: int | None,
    large_shared_memory: bool,
    root: Path | None,
    **stream: Any,
) -> None:
    """Build the engines of a stream, or find them built; a stream that was not exported yet is."""
    from flashvsr_trt.engines.readiness import check_can_build

    check_can_build(flavour, device_arch, exports=bundle is None)
    from flashvsr_trt.cache.bundle import bundle_for
    from flashvsr_trt.engines.build import find_or_build_engines
    from flashvsr_trt.engines.device import current_device
    from flashvsr_trt.engines.flavours import choose_target
    from flashvsr_trt.engines.options import BuildOptions

    target = choose_target(flavour, device_arch, current_device(), say)
    if context.get_parameter_source("precision") is ParameterSource.DEFAULT:
        precision = target.flavour.precisions[0]
    options = BuildOptions(cut, strip_weights, optimization_level, workspace_mb, large_shared_memory)
    if bundle:
        opened = read_bundle(bundle, verify=False)
    else:
        opened = bundle_for(stream_of(**stream), weights, precision, say)
    root = root or cache_folder("engines")
    debug_folder = root / _FAILED if context.find_root().params.get("debug") else None
    found = find_or_build_engines(root, opened, target, options, say, debug_folder)
    click.echo(found.folder)


@engines.command("list")
@_ROOT
@JSON
def list_command(root: Path | None, as_json: bool) -> None:
    """List the engines that are kept."""
    from flashvsr_trt.engines.cache import list_engines

    found = list_engines(root or cache_folder("engines"))
    if as_json:
        rows = [{"error": str(e)} if isinstance(e, EngineError) else _facts(e) for e in found]
        click.echo(json.dumps(rows, indent=2))
        return
    for entry in found:
        if isinstance(entry, EngineError):
            click.echo(f"damaged: {entry}")
        else:
            click.echo(f"{entry.folder.name}  {entry.manifest.size_bytes / 1e6:,.0f} MB")


@engines.command()
@click.argument("name")
@_ROOT
@click.option("--layers", is_flag=True, help="List the layers of every engine, and which only move data.")
@JSON
def show(name: str, root: Path | None, layers: bool, as_json: bool) -> None:
    """Say what NAME is, a folder or a name of the list: what it is for, and its engines and steps."""
    found = _open(name, root)
    if layers:
        _show_layers(found, as_json)
        return
    if as_json:
        click.echo(json.dumps(_facts(found) | {"engines": _engine_rows(found)}, indent=2))
        return
    for fact, value in _facts(found).items():
        click.echo(f"{fact:<15} {value}")
    for graph, plan in found.manifest.plans.items():
        carried = sum(tensor.size_bytes for tensor in plan.carried)
        click.echo(
            f"{graph}: {len(plan.engines)} engines, {len(plan.kernels)} kernels, "
            f"{carried / 1e6:,.1f} MB between them"
        )
    for row in _engine_rows(found):
        click.echo(f"  {row['engine']:<16} {row['size_bytes'] / 1e6:>10,.1f} MB {row['seconds']:>7.1f} s")


@engines.command()
@_ROOT
@click.option("--all", "everything", is_flag=True, help="All engines, not only those that are out of use.")
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def prune(root: Path | None, everything: bool, dry_run: bool) -> None:
    """Remove engines that are damaged, or that would be built again, and unfinished ones."""
    from flashvsr_trt.cache.contents import WHOLE, CacheEntry, list_entries
    from flashvsr_trt.engines.cache import why_stale
    from flashvsr_trt.engines.manifest import open_engines

    def why(entry: CacheEntry) -> str | None:
        if entry.state != WHOLE:
            return entry.state
        try:
            return "all are" if everything else why_stale(open_engines(entry.path))
        except EngineError as error:
            return str(error)

    listed = list_entries({"engines": root or cache_folder("engines")})
    reasons = {entry: reason for entry in listed if (reason := why(entry))}
    removed = remove_entries(reasons, dry_run)
    kept = len(listed) - len(removed)
    click.echo(f"{len(removed)} {'to remove' if dry_run else 'removed'}, {kept} kept")


@engines.command()
@click.argument("names", nargs=-1)
@_ROOT
@JSON
def verify(names: tuple[str, ...], root: Path | None, as_json: bool) -> None:
    """Check NAMES, or all engines: files, bundle, bindings, kernels, and loading where there is a GPU."""
    from flashvsr_trt.engines.cache import list_engines
    from flashvsr_trt.engines.device import current_device
    from flashvsr_trt.engines.verify import verify_engines

    found = [_open(name, root) for name in names] or list_engines(root or cache_folder("engines"))
    device = current_device()
    failed, rows = 0, []
    for entry in found:
        if isinstance(entry, EngineError):
            failed += 1
            rows.append({"engines": None, "check": "open", "passed": False, "detail": str(entry)})
            continue
        for check in verify_engines(entry, device):
            failed += check.passed is False
            row = {"engines": entry.folder.name, "check": check.name}
            rows.append(row | {"passed": check.passed, "detail": check.detail})
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    else:
        words = {True: "ok", False: "FAILED", None: "unknown"}
        for row in rows:
            click.echo(f"{words[row['passed']]:<8}{row['check']:<12} {row['engines'] or ''}: {row['detail']}")
    if failed:
        raise EngineError(f"{failed} of {len(rows)} checks failed")


def _open(name: str, root: Path | None) -> "EngineSet":
    from flashvsr_trt.engines.manifest import open_engines

    folder = Path(name) if Path(name).is_dir() else (root or cache_folder("engines")) / name
    if not folder.is_dir():
        raise UsageError(f"there are no engines {name} in {folder.parent}; see `flashvsr-trt engines list`")
    return open_engines(folder)


def _show_layers(found: "EngineSet", as_json: bool) -> None:
    from flashvsr_trt.engines.layers import read_layers

    listed = {name: read_layers(found.folder, name) for name in found.manifest.engines}
    if as_json:
        click.echo(json.dumps({name: [asdict(layer) for layer in each] for name, each in listed.items()}))
        return
    for name, each in listed.items():
        click.echo(f"{name}: {len(each)} layers, {sum(layer.copies for layer in each)} only move data")
        for layer in each:
            made = ", ".join("x".join(map(str, shape)) for shape in layer.outputs.values())
            click.echo(f"  {'moves' if layer.copies else '':<6}{layer.kind:<16}{layer.name}  {made}")


def _facts(found: "EngineSet") -> dict:
    manifest, stream = found.manifest, found.bundle.stream
    height, width = stream.geometry.target
    return {
        "name": found.folder.name,
        "preset": stream.preset.name,
        "size": f"{width}x{height}",
        "scale": stream.geometry.scale,
        "schedule": stream.schedule.name,
        "precision": manifest.key.precision,
        "flavour": f"{manifest.key.flavour} {manifest.key.version}",
        "capability": manifest.key.capability,
        "device": manifest.device or "any of that capability",
        "weights": found.bundle.weights.source,
        "stripped": manifest.key.options.strip_weights,
        "kernels": ", ".join(manifest.key.kernels) or "none",
        "size_bytes": manifest.size_bytes,
        "build_seconds": manifest.build_seconds,
        "peak_bytes": manifest.peak_bytes,
    }


def _engine_rows(found: "EngineSet") -> list[dict]:
    return [
        {"engine": name, "size_bytes": file.size_bytes, "seconds": file.seconds, "sha256": file.sha256}
        for name, file in found.manifest.engines.items()
    ]
