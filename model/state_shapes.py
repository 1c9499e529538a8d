"""What a network's state dicts must hold, and how a file's contents differ from it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from flashvsr_trt.config.presets import NetworkConfig
from flashvsr_trt.model.decoder import Decoder
from flashvsr_trt.model.dit import DiT
from flashvsr_trt.model.projector import Projector

Shapes = Mapping[str, tuple[int, ...]]

NETWORKS = {"projector": Projector, "dit": DiT, "decoder": Decoder}

PROMPT = "prompt"

PARTS = (*NETWORKS, PROMPT)
"""The parts of the weights: three networks, and the prompt as a state dict of the one key `prompt`."""

FOLDED = ("decoder",)
"""Parts that load as stored whatever dtype is asked for: `balanced_rounding.py` rounds what they fold to."""

_SHOWN_KEYS = 3


def state_shapes(network: NetworkConfig) -> dict[str, dict[str, tuple[int, ...]]]:
    """Part -> key -> shape, read from the modules themselves; nothing is allocated."""
    with torch.device("meta"):
        states = {part: module(network).state_dict() for part, module in NETWORKS.items()}
    shapes = {part: shapes_of(state) for part, state in states.items()}
    shapes[PROMPT] = {PROMPT: (1, network.dit.text_tokens, network.dit.text_dim)}
    return shapes


def shapes_of(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    """Key -> shape of a state dict."""
    return {key: tuple(tensor.shape) for key, tensor in state.items()}


@dataclass(frozen=True)
class Difference:
    """How one part differs from what the network needs; empty where it would load."""

    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshaped: tuple[str, ...]
    """Each as "key is [found], expected [needed]"."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshaped)

    def __str__(self) -> str:
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.misshaped),
        )
        return "; ".join(f"{len(keys)} {kind}: {_first(keys)}" for kind, keys in kinds if keys)


def difference(found: Shapes, expected: Shapes) -> Difference:
    """Compare key by key. Keys are in the order of the file, or of the module for missing ones."""
    return Difference(
        missing=tuple(key for key in expected if key not in found),
        unexpected=tuple(key for key in found if key not in expected),
        misshaped=tuple(
            f"{key} is {list(shape)}, expected {list(expected[key])}"
            for key, shape in found.items()
            if key in expected and shape != expected[key]
        ),
    )


def sizes_of(part: str, shapes: Shapes) -> dict[str, int | tuple[int, ...]]:
    """The sizes of presets.py that a part's shapes tell; those whose key is absent are left out."""
    if part == "projector":
        axes = {"hidden": (("conv1.weight", 0), ("conv2.weight", 0)), "dim": ("linear_layers.0.weight", 0)}
    elif part == "dit":
        axes = {
            "dim": ("patch_embedding.weight", 0),
            "ffn_dim": ("blocks.0.ffn.0.weight", 0),
            "text_dim": ("text_embedding.0.weight", 1),
            "freq_dim": ("time_embedding.0.weight", 1),
        }
    elif part == "decoder":
        convolutions = ("decoder.1", "decoder.10", "decoder.16", "decoder.22")
        axes = {"channels": tuple((f"{name}.weight", 0) for name in convolutions)}
    else:
        axes = {"text_tokens": (PROMPT, 1), "text_dim": (PROMPT, 2)}
    sizes = {name: _size(shapes, axis) for name, axis in axes.items()}
    if part == "dit":
        sizes["layers"] = len({key.split(".")[1] for key in shapes if key.startswith("blocks.")})
    return {name: size for name, size in sizes.items() if size is not None}


def misfit(part: str, found: Shapes, expected: Shapes) -> str | None:
    """In words, why a part would not load: the sizes that differ, and the keys; None where it would."""
    differing = difference(found, expected)
    if not differing:
        return None
    needed = sizes_of(part, expected)
    sizes = [
        f"{name} is {size}, expected {needed[name]}"
        for name, size in sizes_of(part, found).items()
        if size != needed[name]
    ]
    return f"it is of another network, {', '.join(sizes)}; {differing}" if sizes else str(differing)


def _size(shapes: Shapes, axis: tuple) -> int | tuple | None:
    if isinstance(axis[0], tuple):
        sizes = tuple(_size(shapes, one) for one in axis)
        return None if None in sizes else sizes
    key, dim = axis
    return shapes[key][dim] if len(shapes.get(key, ())) > dim else None


def _first(keys: Iterable[str]) -> str:
    keys = list(keys)
    more = ", ..." if len(keys) > _SHOWN_KEYS else ""
    return ", ".join(keys[:_SHOWN_KEYS]) + more
