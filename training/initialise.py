"""Weights to start from: a decoder that already passes its condition on, and a DiT that takes the noise away.

Every stage of the decoder is made to hold the low frequencies of the block of pixels that a cell stands for;
what joins two stages is fitted by least squares. MemBlocks start as identities. The rest is random.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from flashvsr_trt.config.presets import FRAMES_PER_LATENT, LATENT_CHANNELS, LATENT_STRIDE, PATCH
from flashvsr_trt.config.signatures import StreamConfig
from flashvsr_trt.model.decoder import CONDITION_CHANNELS, Decoder, MemBlock, TGrow, condition_cells
from flashvsr_trt.model.weights.random import random_weights
from flashvsr_trt.model.windows import to_windows
from training.degrade import dct_basis
from training.network import TrainableNetwork, denoise, encode, latent_size

OFFSET = 1.25
"""Added to features, so that ReLU lets them pass: pictures are in [-1, 1]."""

RIDGE = 1e-4
LATENT_DEVIATION = 0.002
"""Of the weights by which the decoder first looks at the latent: small beside the condition, and not zero."""


def initial_network(stream: StreamConfig, upscaled: torch.Tensor, seed: int) -> TrainableNetwork:
    """A network fitted to upscaled clips [clips, T, 3, tH, tW] (see `upscale_frames`), on their device.

    Raises:
        ValueError: the decoder is too narrow to hold one value per frame and colour.
    """
    network = TrainableNetwork(stream.preset.network, random_weights(stream.preset.network, seed))
    network.to(upscaled.device)
    with torch.no_grad():
        condition, tokens = encode(network.projector, upscaled, stream)
        fit_decoder(
            network.decoder, condition.flatten(0, 1), torch.Generator(upscaled.device).manual_seed(seed)
        )
        fit_head(network, tokens, stream, seed)
    return network


def kept_frequencies(channels: int, frames: int, stride: int) -> int:
    """How many frequencies each way of a block so many channels hold, per frame and colour."""
    kept = min(math.isqrt(channels // (3 * frames)), stride)
    if not kept:
        raise ValueError(f"{channels} channels cannot hold {frames} frames of 3 colours")
    return kept


def block_features(condition: torch.Tensor, frames: int, stride: int, kept: int) -> torch.Tensor:
    """[T, 3, H, W] -> [T/frames, frames*3*kept^2, H/stride, W/stride]: each block's low DCT frequencies.

    Scaled so that the lowest is the block's mean; channels in (frame, colour, row, column frequency) order.
    """
    basis = dct_basis(stride)[:kept].to(condition) / math.sqrt(stride)
    blocks = condition.unfold(2, stride, stride).unfold(3, stride, stride)
    spectrum = (basis @ blocks @ basis.T).permute(0, 1, 4, 5, 2, 3)
    return spectrum.flatten(1, 3).unflatten(0, (-1, frames)).flatten(1, 2)


def fit_decoder(decoder: Decoder, condition: torch.Tensor, generator: torch.Generator) -> None:
    """Make the decoder give back its condition [T, 3, H, W] in [-1, 1], as well as its form permits."""
    layers = decoder.decoder
    convs = [layer for layer in layers if isinstance(layer, nn.Conv2d)]
    first, inserted, *joins, inserted_last, last = convs
    _fit_first(first, generator)
    for conv in (inserted, inserted_last):
        nn.init.dirac_(conv.weight)
    for block in (layer for layer in layers if isinstance(layer, MemBlock)):
        nn.init.zeros_(block.conv[4].weight)
        nn.init.zeros_(block.conv[4].bias)
    latent = condition.new_zeros(
        len(condition) // FRAMES_PER_LATENT,
        LATENT_CHANNELS,
        *(side // LATENT_STRIDE for side in condition.shape[2:]),
    )
    x = torch.cat([condition_cells(condition), latent], dim=1)
    x = F.relu(inserted(F.relu(first(layers[0](x)))))
    frames, stride = FRAMES_PER_LATENT, LATENT_STRIDE
    grows = [layer for layer in layers if isinstance(layer, TGrow)]
    for grow, conv in zip(grows, joins, strict=True):
        held = kept_frequencies(grow.conv.in_channels, frames, stride) ** 2 * 3 * frames
        time_stride = grow.conv.out_channels // grow.conv.in_channels
        _fit_grow(grow, held, time_stride)
        frames, stride = frames // time_stride, stride // 2
        upsampled = grow(F.interpolate(x, scale_factor=2))
        kept = kept_frequencies(conv.out_channels, frames, stride)
        target = block_features(condition, frames, stride, kept) + OFFSET
        conv.weight[: target.shape[1]] = least_squares_conv(upsampled, target)
        x = F.relu(conv(upsampled))
    nn.init.normal_(last.weight, std=0.01, generator=generator)
    for colour in range(3):
        last.weight[colour, colour, 1, 1] = 0.5
        last.weight[colour, :3].mul_(torch.eye(3, device=last.weight.device)[colour].view(3, 1, 1))
    last.bias.fill_(0.5 - 0.5 * OFFSET)


def _fit_first(conv: nn.Conv2d, generator: torch.Generator) -> None:
    """The block features of 8x8 cells, in its centre tap; spare channels stay random and small."""
    kept = kept_frequencies(conv.out_channels, FRAMES_PER_LATENT, LATENT_STRIDE)
    cell = LATENT_STRIDE
    # Each condition channel's own frames, one at a time: what the features make of it is a column.
    pixels = torch.eye(CONDITION_CHANNELS).view(-1, 3, FRAMES_PER_LATENT, cell, cell)
    columns = block_features(pixels.transpose(1, 2).flatten(0, 1), FRAMES_PER_LATENT, cell, kept)
    held = columns.shape[1]
    conv.weight.mul_(0.2)
    conv.weight[:held] = 0
    conv.weight[:held, :CONDITION_CHANNELS, 1, 1] = columns.flatten(1).T.to(conv.weight)
    nn.init.normal_(conv.weight[:, CONDITION_CHANNELS:], std=LATENT_DEVIATION, generator=generator)
    conv.bias[:held] = OFFSET


def _fit_grow(grow: TGrow, held: int, time_stride: int) -> None:
    """Frame t of the output gets the features of its part of the frames in its first channels."""
    channels = grow.conv.in_channels
    part = held // time_stride
    weight = torch.eye(channels).repeat(time_stride, 1, 1)
    for frame in range(time_stride):
        weight[frame, :part] = torch.eye(channels)[frame * part : (frame + 1) * part]
    grow.conv.weight.copy_(weight.flatten(0, 1)[..., None, None])


def least_squares_conv(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The 3x3 kernel [out, in, 3, 3] that best makes target [T, out, h, w] of x [T, in, h, w]."""
    size = x.shape[1] * 9
    gram = torch.zeros(size, size, dtype=torch.float64)
    product = torch.zeros(size, target.shape[1], dtype=torch.float64)
    for frame, wanted in zip(x, target, strict=True):
        columns = F.unfold(frame[None], 3, padding=1)[0]
        gram += (columns @ columns.T).double().cpu()
        product += (columns @ wanted.flatten(1).T).double().cpu()
    gram += RIDGE * gram.diagonal().mean() * torch.eye(size, dtype=torch.float64)
    solution = torch.linalg.solve(gram, product)
    return solution.T.reshape(target.shape[1], x.shape[1], 3, 3).to(x)


def fit_head(network: TrainableNetwork, tokens: torch.Tensor, stream: StreamConfig, seed: int) -> None:
    """Make the velocity the noise, so that the first latents hold little of it."""
    generator = torch.Generator(device=tokens.device).manual_seed(seed)
    size = latent_size(stream, len(tokens), tokens.shape[1] // 2)
    noise = torch.randn(size, generator=generator, device=tokens.device)
    head, seen = network.dit.head.head, []
    handle = head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    denoise(network.dit, network.prompt, noise, tokens, stream)
    handle.remove()
    split = F.pixel_unshuffle(noise.flatten(0, 1), PATCH).unflatten(1, (LATENT_CHANNELS, PATCH * PATCH))
    wanted = to_windows(split.permute(0, 3, 4, 2, 1).flatten(0, 2).flatten(1), stream.geometry.tokens)
    features = F.pad(seen[0], (0, 1), value=1.0).double().cpu()
    gram = features.T @ features
    gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    solution = torch.linalg.solve(gram, features.T @ wanted.double().cpu()).T
    head.weight.copy_(solution[:, :-1])
    head.bias.copy_(solution[:, -1])
