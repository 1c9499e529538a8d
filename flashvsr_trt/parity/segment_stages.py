"""The graphs cut as for engines, as a backend that parity compares."""

from collections.abc import Mapping

import numpy as np

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.engines.plan import KernelStep
from flashvsr_trt.parity.onnxruntime_stages import expand_blocks
from flashvsr_trt.parity.stage_runner import BLOCKS, Arrays
from flashvsr_trt.plugins.sparse_attention import SELECT_BLOCKS
from flashvsr_trt.runtime.onnxruntime.segments import OnnxRuntimeSegments


class SegmentStages:
    """Implements `parity.stage_runner.StageRunner` on the CPU; see `OnnxRuntimeSegments`."""

    def __init__(self, bundle: Bundle) -> None:
        self.segments = OnnxRuntimeSegments(bundle, self._keep_blocks)
        self.blocks: Arrays = {}

    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """See `StageRunner.run`."""
        self.blocks = {}
        return self.segments.run(graph, inputs) | self.blocks

    def _keep_blocks(self, step: KernelStep, made: Arrays) -> None:
        if step.operator == SELECT_BLOCKS.name:
            self.blocks[f"{BLOCKS}{len(self.blocks)}"] = expand_blocks(made["index"], made["count"])
