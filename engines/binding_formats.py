"""In which memory format an engine takes its state: what only it reads and writes needs no fixed one."""

from flashvsr_trt.bundle import Bundle
from flashvsr_trt.config.signatures import Role, TensorSpec

CHANNEL_MULTIPLE = 8
"""HWC8 pads the channels of a pixel to a multiple of this: others stay row-major, so that no size changes."""

HALF_DTYPES = ("float16", "bfloat16")

IMAGE_RANK = 4


def channels_last(bundle: Bundle, graph: str) -> frozenset[str]:
    """Names of a graph's state, as it goes in and as it comes out, that is kept with channels innermost.

    Convolutions in 16 bits read and write that. In the row-major format every frame of state would be
    transposed twice a step. A runtime makes it of zeros and hands it back as it came: it never looks inside.
    """

    def kept_so(spec: TensorSpec | None) -> bool:
        return (
            spec is not None
            and spec.role is Role.STATE
            and bundle.dtype_of(spec) in HALF_DTYPES
            and len(spec.shape) == IMAGE_RANK
            and spec.shape[1] % CHANNEL_MULTIPLE == 0
        )

    signature = bundle.signatures[graph]
    read = {spec.name for spec in signature.graph_inputs if kept_so(spec)}
    return frozenset(read | {spec.name for spec in signature.graph_outputs if kept_so(spec.becomes)})
