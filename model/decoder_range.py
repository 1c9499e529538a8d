"""Decoders whose activations grow from layer to layer, brought into the range of every dtype.

The colour correction gives frames the deviation of the input, so training leaves the scale of what a decoder
makes free: nano's reaches 1e9, and float16 ends at 65504. A ReLU network with all its biases scaled is the
same network scaled, so a power of two in front of each group of layers changes no digit of what it computes.
"""

from collections.abc import Iterable
from math import ceil, log2

import torch
from torch import nn

from flashvsr_trt.config.presets import LATENT_CHANNELS, LATENT_STRIDE, UNIT_FRAMES, UNIT_LATENT_FRAMES
from flashvsr_trt.errors import WeightsError
from flashvsr_trt.model.decoder import Decoder, MemBlock, condition_cells

LARGEST_KEPT = 2.0**13
"""A decoder whose activations stay below is left as it is: an eighth of what float16 holds."""

LARGEST_MADE = 2.0**6
"""Of what enters a group of layers, where a decoder is scaled; inside one it grows some eight times."""

PROBE_SIDE = 4
"""Of the latent that is decoded to see how large activations become."""


@torch.no_grad()
def in_range(decoder: Decoder, dtype: torch.dtype) -> Decoder:
    """Scale a float32 decoder where its activations are large, whatever it is to be rounded to.

    Raises:
        WeightsError: activations are beyond what `dtype` holds even so.
    """
    made, largest = activations(decoder)
    if largest > LARGEST_KEPT:
        scale_layers(decoder, made)
        _, largest = activations(decoder)
    if not largest <= torch.finfo(dtype).max:
        raise WeightsError(
            f"the decoder's activations reach {largest:.3g}, and {str(dtype).removeprefix('torch.')} ends at "
            f"{torch.finfo(dtype).max:.3g}: its frames would be black; use bfloat16 or float32"
        )
    return decoder


def activations(decoder: Decoder) -> tuple[list[float], float]:
    """The largest value that each of `scaled_layers` makes, and the largest that any convolution makes."""
    layers = scaled_layers(decoder)
    device = layers[0].weight.device
    random = torch.Generator().manual_seed(0)
    side = PROBE_SIDE * LATENT_STRIDE
    condition = torch.rand(UNIT_FRAMES, 3, side, side, generator=random) * 2 - 1
    latent = 3 * torch.randn(UNIT_LATENT_FRAMES, LATENT_CHANNELS, PROBE_SIDE, PROBE_SIDE, generator=random)
    x = torch.cat([condition_cells(condition), latent], dim=1).to(device)
    largest: dict[nn.Module, float] = {}

    def keep(layer: nn.Module, _: object, made: torch.Tensor) -> None:
        largest[layer] = max(largest.get(layer, 0.0), float(made.abs().max()))

    convolutions = [module for module in decoder.modules() if isinstance(module, nn.Conv2d)]
    hooks = [module.register_forward_hook(keep) for module in convolutions]
    try:
        for layer in decoder.decoder:
            x = layer(x, torch.zeros_like(x[:1]))[0] if isinstance(layer, MemBlock) else layer(x)
    finally:
        for hook in hooks:
            hook.remove()
    return [largest[layer] for layer in layers], max(largest.values())


def scaled_layers(decoder: Decoder) -> list[nn.Conv2d]:
    """Whose weights take a scale: the last layer before each group of MemBlocks, and the last three."""
    return [layer for layer in decoder.decoder if isinstance(layer, nn.Conv2d)][1:]


def scale_layers(decoder: Decoder, made: Iterable[float]) -> None:
    """Powers of two into weights and biases: a group gets at most LARGEST_MADE, and about 1 comes out.

    Args:
        made: the largest value that each of `scaled_layers` makes.
    """
    layers = scaled_layers(decoder)
    limits = [LARGEST_MADE] * (len(layers) - 1) + [1.0]
    scales = {
        layer: 2.0 ** -max(ceil(log2(largest / limit)), 0)
        for layer, largest, limit in zip(layers, made, limits, strict=True)
    }
    scale = 1.0
    for layer in decoder.decoder:
        if layer in scales:
            _multiply(layer.weight, scales[layer] / scale)
            scale = scales[layer]
        if layer in scales or isinstance(layer, MemBlock):
            for module in layer.modules():
                if getattr(module, "bias", None) is not None:
                    _multiply(module.bias, scale)


def _multiply(tensor: torch.Tensor, factor: float) -> None:
    # Not in place: the loaded weights may be a file's memory, or another network's.
    tensor.data = tensor.data * factor
