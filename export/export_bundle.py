"""A network and a stream to a bundle: trace every graph, share the weights, check, and name it when whole."""

import math
import os
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir
import torch

from flashvsr_trt import __version__
from flashvsr_trt.bundle import PRECISIONS, Bundle, BundleWeights, write_manifest
from flashvsr_trt.config.signatures import StageSignature, StreamConfig, stage_signatures
from flashvsr_trt.errors import BundleError, DeviceError, UsageError
from flashvsr_trt.export.checks import check_graph
from flashvsr_trt.export.graph_passes import (
    attach_functions,
    data_address,
    fold_constants,
    fold_weight_reshapes,
    merge_slices,
    name_nodes_by_layer,
    name_weights,
    refer_to_weights,
    strip_metadata,
)
from flashvsr_trt.export.stage_graphs import GRAPHS, exported_network
from flashvsr_trt.export.trace import trace_stage
from flashvsr_trt.export.weights_file import (
    data_offsets,
    link_sibling_weights,
    network_tensors,
    weights_file_name,
    write_weights,
)
from flashvsr_trt.files.folder import NamedFile, describe_file
from flashvsr_trt.files.new import whole_folder
from flashvsr_trt.memory import EXPORT_BYTES, GIB
from flashvsr_trt.model.network import Network, build_network
from flashvsr_trt.model.state_shapes import state_shapes
from flashvsr_trt.model.weights.load import load_weights, resolve_weights
from flashvsr_trt.notices import Notify, phase
from flashvsr_trt.process_memory import free_host_memory

GRAPH_BYTES = 64 << 20
"""Room kept for the graphs themselves, whose size follows from tables for the frame's size."""

EXPORTERS = ("torch", "onnx", "onnxscript", "onnx-ir")


@dataclass(frozen=True)
class WeightsOrigin:
    """What a bundle says of where its weights come from; see `bundle.BundleWeights`."""

    spec: str | None
    source: str
    version: str
    fingerprint: str


def export_bundle(
    stream: StreamConfig,
    weights: str | None,
    precision: str,
    output: Path,
    notify: Notify,
    share_weights: bool = True,
) -> Bundle:
    """Export a stream of a preset with the weights that `weights` names (see `resolve_weights`).

    With `share_weights`, a bundle beside `output` that has the same weights file gives it by a hard link.

    Raises:
        UsageError: no such precision.
        WeightsError: the weights cannot be found or do not fit.
        BundleError: the output exists, or cannot be written.
    """
    dtype = compute_dtype(precision)
    check_output(output)
    network_config = stream.preset.network
    source = resolve_weights(weights, network_config)
    check_export_memory(stream, dtype)
    loaded = load_weights(source, network_config, dtype)
    notify(f"weights: {loaded.source}")
    # A path is kept whole: parity may look for it from another folder.
    spec = str(Path(weights).resolve()) if weights and Path(weights).exists() else weights
    origin = WeightsOrigin(spec, loaded.source, loaded.version, loaded.fingerprint)
    network = build_network(network_config, loaded, torch.device("cpu"), dtype)
    return export_network(network, stream, origin, precision, output, notify, share_weights)


def export_network(
    network: Network,
    stream: StreamConfig,
    origin: WeightsOrigin,
    precision: str,
    output: Path,
    notify: Notify,
    share_weights: bool = True,
) -> Bundle:
    """Export a network that is loaded on the CPU in the dtype of `precision`. Raises BundleError."""
    check_output(output)
    dtype = compute_dtype(precision)
    signatures = stage_signatures(stream)
    network = exported_network(network)
    tensors = network_tensors(network)
    names = {tensor.data_ptr(): name for name, tensor in tensors.items()}
    models: dict[str, ir.Model] = {}
    nodes = 0
    with phase("tracing graphs", "nodes") as report:
        for number, (name, signature) in enumerate(signatures.items(), start=1):
            report(nodes, None, f"{name}, {number} of {len(signatures)}")
            models[name] = trace_graph(network, stream, signature, dtype, names)
            nodes += models[name].graph.num_nodes()
        report(nodes, nodes)
    used = {
        names[address]
        for model in models.values()
        for value in model.graph.initializers.values()
        if (address := data_address(value)) in names
    }
    with whole_folder(output, BundleError) as folder:
        weights_path = folder / weights_file_name(origin.fingerprint, precision)
        weights_file = link_sibling_weights(weights_path, output.parent, used) if share_weights else None
        if weights_file:
            notify(f"weights shared with the other bundles in {output.parent}")
        else:
            used_tensors = {name: tensor for name, tensor in tensors.items() if name in used}
            weights_file = _write_weights(weights_path, used_tensors, notify)
        offsets = data_offsets(folder / weights_file.name)
        graphs = {}
        with phase("checking graphs", "nodes") as report:
            checked = 0
            for name, model in models.items():
                path = folder / f"{name}.onnx"
                report(checked, nodes, path.name)
                refer_to_weights(model, folder / weights_file.name, offsets)
                ir.save(model, path)
                check_graph(path, signatures[name], PRECISIONS[precision])
                graphs[name] = describe_file(path)
                checked += model.graph.num_nodes()
                report(checked, nodes, path.name)
        bundle = Bundle(
            folder=folder,
            stream=stream,
            precision=precision,
            graphs=graphs,
            weights=BundleWeights(weights_file, **vars(origin)),
            exporter={"flashvsr-trt": __version__} | {name: version(name) for name in EXPORTERS},
        )
        write_manifest(bundle)
    return replace(bundle, folder=output)


def trace_graph(
    network: Network,
    stream: StreamConfig,
    signature: StageSignature,
    dtype: torch.dtype,
    names: dict[int, str],
) -> ir.Model:
    """One graph with all passes done; its weights still are the network's own tensors."""
    model = trace_stage(GRAPHS[signature.name](network, stream), signature, dtype).model
    name_weights(model, names)
    fold_weight_reshapes(model)
    fold_constants(model)
    merge_slices(model)
    name_nodes_by_layer(model)
    strip_metadata(model)
    attach_functions(model)
    model.producer_name, model.producer_version = "flashvsr-trt", __version__
    return model


def check_export_memory(stream: StreamConfig, dtype: torch.dtype) -> None:
    """Raise DeviceError where the weights do not fit this machine's memory; sizes hardly matter."""
    needed, free = parameter_bytes(stream, dtype) + EXPORT_BYTES, free_host_memory()
    if needed > free:
        raise DeviceError(
            f"exporting {stream.preset.name} needs about {needed / GIB:.1f} GiB and this machine has "
            f"{free / GIB:.1f} GiB free; export on another machine, or use preset nano"
        )


def parameter_bytes(stream: StreamConfig, dtype: torch.dtype) -> int:
    """Of all weights of a stream's network in a dtype."""
    shapes = state_shapes(stream.preset.network)
    return sum(math.prod(shape) for part in shapes.values() for shape in part.values()) * dtype.itemsize


def compute_dtype(precision: str) -> torch.dtype:
    """The torch dtype of "bf16", "fp16" or "fp32". Raises UsageError for any other."""
    if precision not in PRECISIONS:
        raise UsageError(f"precision '{precision}' is not supported; use one of: {', '.join(PRECISIONS)}")
    return getattr(torch, PRECISIONS[precision])


def check_output(output: Path) -> None:
    """Raise BundleError where a bundle cannot be made, before anything is loaded for it."""
    if os.path.lexists(output):
        raise BundleError(f"{output} exists; remove it or choose another folder with -o")


def _write_weights(path: Path, tensors: dict[str, torch.Tensor], notify: Notify) -> NamedFile:
    needed = sum(tensor.nbytes for tensor in tensors.values()) + GRAPH_BYTES
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise BundleError(
            f"the disk has {free / 1e9:.1f} GB free and this bundle needs {needed / 1e9:.1f} GB; "
            "free some or choose another folder with -o"
        )
    notify(f"writing {path.name} ({needed / 1e9:.1f} GB)")
    return write_weights(path, tensors)
