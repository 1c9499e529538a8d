"""A loaded network in the form that is exported: fewer copies in an engine, the same results."""

from dataclasses import replace

from flashvsr_trt.model.exported_decoder import exported_decoder
from flashvsr_trt.model.network import Network


def exported_network(network: Network) -> Network:
    """The decoder frame by frame; weights that stay are shared."""
    return replace(network, decoder=exported_decoder(network.decoder))
