"""A network narrow enough to train in a test: what is shown there does not depend on widths."""

from dataclasses import replace

from flashvsr_trt.config.presets import (
    DecoderConfig,
    DiTConfig,
    NetworkConfig,
    Preset,
    ProjectorConfig,
    find_preset,
)

SMALL = NetworkConfig(
    dit=DiTConfig(dim=32, heads=1, ffn_dim=32, layers=2, text_dim=16, text_tokens=4, freq_dim=16),
    projector=ProjectorConfig(hidden=(8, 8)),
    # 12, 12, 6 and 3 are the least that holds a value for each frame and colour of a cell.
    decoder=DecoderConfig(channels=(48, 12, 6, 4)),
)


def small_preset() -> Preset:
    """Nano's attention over the small network, which has no weights of its own."""
    return replace(find_preset("nano"), network=SMALL, packaged_weights=None)
