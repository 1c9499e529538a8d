"""A network for what any weights show, smaller than nano's: half its layers, and a narrow decoder."""

from dataclasses import replace

from flashvsr_trt.config.presets import DecoderConfig, Preset


def slim(preset: Preset) -> Preset:
    """As many layers as show that each has weights and a ring of its own, and a decoder of fewer channels.

    Nano's other two layers, and the 192 channels of its coarsest level, take most of a clip's time. Its own
    weights need both.
    """
    network = preset.network
    network = replace(network, dit=replace(network.dit, layers=2), decoder=DecoderConfig((48, 40, 24, 16)))
    return replace(preset, network=network)
