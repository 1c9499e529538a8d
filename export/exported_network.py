"""A loaded network in the form that is exported: fewer copies in an engine, the same results."""

import copy
from dataclasses import replace

from flashvsr_trt.model.dit import DiT, JoinedSelfAttention
from flashvsr_trt.model.exported_decoder import exported_decoder
from flashvsr_trt.model.network import Network


def exported_network(network: Network) -> Network:
    """Queries and keys as one product, the decoder frame by frame; weights that stay are shared."""
    return replace(network, dit=_joined(network.dit), decoder=exported_decoder(network.decoder))


def _joined(dit: DiT) -> DiT:
    tensors = (*dit.parameters(), *dit.buffers())
    shared = copy.deepcopy(dit, {id(tensor): tensor for tensor in tensors})
    for block, original in zip(shared.blocks, dit.blocks, strict=True):
        block.self_attn = JoinedSelfAttention(original.self_attn)
    return shared
