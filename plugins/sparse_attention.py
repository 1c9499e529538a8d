"""The two custom ONNX nodes of sparse attention: what goes in and out of them.

Their PyTorch references are `kernels.select_blocks` and `kernels.block_sparse_attention`; their meaning in
standard ONNX operators is in `select_blocks_function.py` and `block_sparse_attention_function.py`.
"""

from dataclasses import dataclass

DOMAIN = "flashvsr"
DOMAIN_VERSION = 1


@dataclass(frozen=True)
class Port:
    """An input or output. `dtype` is an ONNX name; T is the dtype of q, one for all ports that say T."""

    name: str
    dtype: str
    axes: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class Operator:
    """A node of DOMAIN. Attributes are integers, name -> meaning."""

    name: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    attributes: dict[str, str]


_TOKENS = ("units*W*128", "heads", "head_dim")
_RING = ("slots", "W*128", "heads", "head_dim")
_INDEX = Port(
    "index",
    "int32",
    ("heads", "units*W", "(slots+units)*W"),
    "kept key windows of each query window, ascending; entries from count on are 0 and mean nothing",
)
_COUNT = Port("count", "int32", ("heads", "units*W"), "how many entries of index are kept; may be 0")

SELECT_BLOCKS = Operator(
    name="select_blocks",
    inputs=(
        Port(
            "probability",
            "float",
            ("heads", "units", "W", "(slots+units)*W"),
            "finite and not negative; 0 in the columns of invalid slots",
        ),
        Port("slot_valid", "bool", ("slots",), "which slots of the ring hold a past unit"),
    ),
    outputs=(_INDEX, _COUNT),
    attributes={"top_k": "blocks a head may keep per query unit, before the count of visible ones limits it"},
)

BLOCK_SPARSE_ATTENTION = Operator(
    name="block_sparse_attention",
    inputs=(
        Port("q", "T", _TOKENS, "queries after RoPE, in window order"),
        Port("k", "T", _TOKENS, "keys of the step's own units"),
        Port("v", "T", _TOKENS, "values of the step's own units"),
        Port("ring_k", "T", _RING, "keys of past units; key window s*W + w is window w of slot s"),
        Port("ring_v", "T", _RING, "values of past units"),
        _INDEX,
        _COUNT,
    ),
    outputs=(Port("out", "T", _TOKENS, "attention result; zeros for a query window that keeps no block"),),
    attributes={},
)

OPERATORS = (SELECT_BLOCKS, BLOCK_SPARSE_ATTENTION)
"""One pair of these nodes per layer of a sparse DiT."""
