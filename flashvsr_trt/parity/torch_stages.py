"""The PyTorch stages on host arrays by the names of their signatures: the reference of parity."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import torch

from flashvsr_trt.config.signatures import StreamConfig, stage_signatures
from flashvsr_trt.export.stage_graphs import GRAPHS, DenoiseGraph
from flashvsr_trt.kernels.select_blocks import expand_mask
from flashvsr_trt.model.attention import SparseAttention
from flashvsr_trt.model.network import Network
from flashvsr_trt.parity.stage_runner import BLOCKS, Arrays


class TorchStages:
    """Implements `parity.stage_runner.StageRunner` with the exported modules, on their own device."""

    def __init__(self, network: Network, stream: StreamConfig) -> None:
        self.device = network.device
        self.signatures = stage_signatures(stream)
        self.graphs = {name: GRAPHS[name](network, stream) for name in self.signatures}
        self.blocks: list[torch.Tensor] = []
        for graph in self.graphs.values():
            if isinstance(graph, DenoiseGraph) and isinstance(graph.stage.attention, SparseAttention):
                self._record_blocks(graph.stage.attention)

    @torch.inference_mode()
    def run(self, graph: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        self.blocks.clear()
        signature = self.signatures[graph]
        arguments = [from_array(inputs[spec.name]).to(self.device) for spec in signature.graph_inputs]
        outputs = self.graphs[graph](*arguments)
        made = {
            spec.name: to_array(tensor) for spec, tensor in zip(signature.graph_outputs, outputs, strict=True)
        }
        return made | {f"{BLOCKS}{layer}": to_array(mask) for layer, mask in enumerate(self.blocks)}

    def _record_blocks(self, attention: SparseAttention) -> None:
        select = attention.select

        def recorded(q_means, cache, slot_valid):
            index, count = select(q_means, cache, slot_valid)
            self.blocks.append(expand_mask(index, count))
            return index, count

        attention.select = recorded


def from_array(array: np.ndarray) -> torch.Tensor:
    """A tensor of the same values; torch takes bfloat16 from numpy by its bits alone."""
    array = np.asarray(array)
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_array(tensor: torch.Tensor) -> np.ndarray:
    """The inverse of `from_array`, from any device."""
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
