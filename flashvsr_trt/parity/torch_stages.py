"""The PyTorch stages on host arrays by the names of their signatures: the reference of parity."""

from collections.abc import Mapping

import numpy as np
import torch

from flashvsr_trt.config.signatures import StreamConfig, stage_signatures
from flashvsr_trt.export.stage_graphs import GRAPHS, DenoiseGraph
from flashvsr_trt.kernels.select_blocks import expand_mask
from flashvsr_trt.model.attention import SparseAttention
from flashvsr_trt.model.network import Network
from flashvsr_trt.parity.stage_runner import BLOCKS, Arrays


class TorchStages:
    """Implements `parity.stage_runner.StageRunner` with the modules that are exported."""

    def __init__(self, network: Network, stream: StreamConfig) -> None:
        self.signatures = stage_signatures(stream)
        self.graphs = {name: GRAPHS[name](network, stream) for name in self.signatures}
        self.blocks: list[torch.Tensor] = []
        for graph in self.graphs.values():
            if isinstance(graph, DenoiseGraph) and isinstance(graph.stage.attention, SparseAttention):
                self._record_blocks(graph.stage.attention)

    @torch.inference_mode()
    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """See `StageRunner.run`."""
        self.blocks.clear()
        signature = self.signatures[graph]
        arguments = [torch.from_numpy(np.asarray(inputs[spec.name])) for spec in signature.graph_inputs]
        outputs = self.graphs[graph](*arguments)
        made = {
            spec.name: tensor.numpy() for spec, tensor in zip(signature.graph_outputs, outputs, strict=True)
        }
        return made | {f"{BLOCKS}{layer}": mask.numpy() for layer, mask in enumerate(self.blocks)}

    def _record_blocks(self, attention: SparseAttention) -> None:
        select = attention.select

        def recorded(*arguments):
            index, count = select(*arguments)
            self.blocks.append(expand_mask(index, count))
            return index, count

        attention.select = recorded
