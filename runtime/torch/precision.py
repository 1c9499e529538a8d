"""`--precision fp8`: which of the network's products are taken in FP8, and the table of a calibration."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from flashvsr_trt.config.presets import NetworkConfig
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.errors import DeviceError, UsageError
from flashvsr_trt.files.manifest_reader import dump_manifest, manifest_errors, read_manifest, record_of
from flashvsr_trt.kernels.calls import architecture_of
from flashvsr_trt.kernels.fp8_products import kernel_taking
from flashvsr_trt.kernels.tuning import capability_number
from flashvsr_trt.model.fused_projector import CONVOLUTIONS, convolution_sizes
from flashvsr_trt.model.network import fp8_names
from flashvsr_trt.model.running_dit import ATTENTION
from flashvsr_trt.runtime.request import DIT_PRECISIONS, KV_CACHES, TorchOptions

OLDEST_FP8 = 89
"""Compute capability 8.9, Ada: the first whose tensor cores multiply e4m3."""

FORMAT = ("flashvsr-trt calibration", 1)


@dataclass(frozen=True)
class Calibration:
    """What `flashvsr-trt calibrate` found.

    Attributes:
        weights: digest of the weights that were measured.
        clips: which clips, by name.
        psnr: of the frames with the chosen products in FP8, against all in the network's dtype, in dB.
        errors: of the latents, relative, where this product alone is in FP8.
        kept: products that stay in the network's dtype.
    """

    preset: str
    weights: str
    clips: tuple[str, ...]
    psnr: float
    errors: Mapping[str, float]
    kept: tuple[str, ...]

    def text(self) -> str:
        """As a file's content."""
        name, version = FORMAT
        return dump_manifest({"format": name, "format_version": version} | asdict(self))


def read_calibration(path: Path, layers: int) -> Calibration:
    """A table for a DiT of `layers` blocks. Raises UsageError where it is none, or damaged."""
    remedy = f"make it with: flashvsr-trt calibrate ... -o {path}"
    content = read_manifest(path.parent, path.name, FORMAT, UsageError, remedy)
    with manifest_errors(path, UsageError, remedy):
        found = record_of(Calibration, content)
    if unknown := {*found.kept, *found.errors} - set(fp8_names(layers)):
        raise UsageError(f"{path} is for another network: this one has no {min(unknown)}; {remedy}")
    if missing := unmeasured(found, layers) - {ATTENTION, *CONVOLUTIONS}:
        raise UsageError(f"{path} is for another network: it has no {min(missing)}; {remedy}")
    return found


def unmeasured(table: Calibration, layers: int) -> set[str]:
    """Products that a table says nothing of: where it was made there was no form in FP8 of them."""
    return set(fp8_names(layers)) - table.errors.keys()


def fp8_lines(
    options: TorchOptions, network: NetworkConfig, device: torch.device, fingerprint: str
) -> list[str]:
    """What a user of FP8 should know: a table that was made with other weights, and what stays out of FP8."""
    if options.precision == DIT_PRECISIONS[0]:
        return []
    table, layers, lines = options.calibration, network.dit.layers, []
    left = set(fp8_names(layers)) - set(fp8_choices(device, network))
    if table:
        found = read_calibration(Path(table), layers)
        if found.weights != fingerprint:
            lines = [f"{table} was made with other weights: it may keep the wrong products out of FP8"]
        alone = {ATTENTION} if options.precision == "fp8" else set()
        if unknown := unmeasured(found, layers) - left - alone:
            lines.append(
                f"{table} has no measure of these, which stay out of FP8: {', '.join(sorted(unknown))}"
            )
    if left:
        names, where = ", ".join(sorted(left)), architecture_of(device)
        lines.append(f"{names} stay out of FP8: {where} has no FP8 convolution of their sizes")
    return lines


def check_fp8(options: TorchOptions, stream: StreamConfig, ranks: int = 1) -> None:
    """Raises UsageError where FP8 attention or an FP8 ring is asked for and cannot be had."""
    if ranks > 1 and options.kv_cache != KV_CACHES[0]:
        raise UsageError(f"--kv-cache {options.kv_cache} is for one GPU; leave it out, or --gpus")
    if options.precision != "fp8-attention":
        return
    if stream.preset.attention.sparse_ratio is None:
        raise UsageError(f"{stream.preset.name}'s attention has no FP8 form; use --precision fp8")
    if ranks > 1:
        raise UsageError(f"attention of {ranks} ranks has no FP8 form; use --precision fp8, or one GPU")
    if options.kv_cache == "fp8":
        raise UsageError("--precision fp8-attention keeps the K/V ring in FP8 itself; leave out --kv-cache")


def fp8_choices(device: torch.device, network: NetworkConfig) -> list[str]:
    """Those of `fp8_names` that this device has kernels for at their sizes; a CPU runs references of all."""
    sizes = {} if device.type == "cpu" else convolution_sizes(network)
    where = architecture_of(device)
    left = [name for name, size in sizes.items() if not kernel_taking("fp8_convolution", where, *size)]
    return [name for name in fp8_names(network.dit.layers) if name not in left]


def fp8_products(
    options: TorchOptions, device: torch.device, dtype: torch.dtype, network: NetworkConfig
) -> Callable[[str], bool] | None:
    """Whether a product of that name is to be in FP8; None where all stay as they are.

    Raises:
        UsageError: a dtype that FP8 products do not make, or a calibration that is unreadable or without FP8.
        DeviceError: a GPU that does not multiply FP8.
    """
    if options.precision == DIT_PRECISIONS[0]:
        if options.calibration:
            raise UsageError("--calibration says what --precision fp8 leaves out; give both")
        return None
    if device.type == "cuda":
        if dtype is not torch.bfloat16:
            raise UsageError(f"--precision fp8 makes bfloat16 on a GPU, and not {dtype}; leave out --dtype")
        architecture = architecture_of(device)
        if capability_number(architecture) < OLDEST_FP8:
            raise DeviceError(
                f"{device} is {architecture} and FP8 needs sm_{OLDEST_FP8} or newer; leave out --precision"
            )
    layers = network.dit.layers
    kept = set(fp8_names(layers)) - set(fp8_choices(device, network))
    if options.calibration:
        table = read_calibration(Path(options.calibration), layers)
        kept |= {*table.kept, *unmeasured(table, layers)}
    if options.precision != "fp8-attention":
        kept.add(ATTENTION)
    return lambda name: name not in kept
