"""One segment to the file that an ONNX Runtime session opens. Building is rewriting: it needs no GPU."""

import time
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import ModelProto

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.engines.flavours import ONNXRUNTIME
from flashvsr_trt.engines.layers import write_layers
from flashvsr_trt.engines.manifest import EngineFile
from flashvsr_trt.engines.onnxruntime_graph import adapt_for_onnxruntime
from flashvsr_trt.engines.options import BuildOptions
from flashvsr_trt.errors import EngineError, UsageError
from flashvsr_trt.files.folder import sha256_of


def check_onnxruntime_build(bundle: Bundle, options: BuildOptions) -> None:
    """Raise EngineError for a precision that the CUDA provider lacks, UsageError for TensorRT's options."""
    if bundle.precision not in ONNXRUNTIME.precisions:
        raise EngineError(
            f"{ONNXRUNTIME.title} cannot run the {bundle.precision} bundle {bundle.folder}: it has no "
            f"transposed convolution in that; export it with --precision {ONNXRUNTIME.precisions[0]}"
        )
    refused = replace(options, cut=False).words
    if refused:
        raise UsageError(f"{', '.join(refused)}: the {ONNXRUNTIME.name} flavour has no such option")


def write_session_file(segment: ModelProto, path: Path) -> EngineFile:
    """Adapt a segment and write it; its weights stay in the bundle's file, beside it.

    Raises:
        EngineError: the segment cannot be adapted.
    """
    started = time.perf_counter()
    onnx.save(adapt_for_onnxruntime(segment), path)
    # Its kernels are chosen when a session is opened.
    write_layers(path.parent, path.stem, ())
    seconds = round(time.perf_counter() - started, 3)
    return EngineFile(path.name, sha256_of(path), path.stat().st_size, seconds)
