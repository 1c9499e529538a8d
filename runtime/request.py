"""What a run asks of its backend: records that the command line, the backends and the tests share."""

from dataclasses import dataclass

from flashvsr_trt.config.signatures import StreamConfig

PIPE_FORMATS = {"matroska": "matroska", "y4m": "yuv4mpegpipe"}
"""What a pipe can carry, by its name on the command line -> FFmpeg's."""

ATTENTIONS = ("auto", "reference")
"""`auto`: the kernels on a GPU, their references in PyTorch on a CPU. `reference`: these everywhere."""

KV_CACHES = ("auto", "fp8")
"""`auto`: K/V rings in the network's dtype. `fp8`: in float8_e4m3fn, half the bytes of 16-bit ones."""


@dataclass(frozen=True)
class TorchOptions:
    """How the torch backend runs what it runs.

    `attention` is one of ATTENTIONS, `kv_cache` of KV_CACHES. `compile`: torch.compile for encoding and the
    decoder. `cuda_graphs` None is on where the kernels run; it is the tensorrt backend's option as well.
    """

    attention: str = ATTENTIONS[0]
    compile: bool = False
    cuda_graphs: bool | None = None
    kv_cache: str = KV_CACHES[0]


@dataclass(frozen=True)
class EngineOptions:
    """How the tensorrt backend runs: whether it builds engines that are missing, and records layer times.

    `flavour` is one of `engines.flavours.FLAVOUR_CHOICES`.
    `folder` names the engines, or a folder of several sets of them: then none are looked for or built.
    """

    build: bool = True
    profile: bool = False
    flavour: str = "auto"
    folder: str | None = None


@dataclass(frozen=True)
class TileOptions:
    """Whether frames run in tiles: "auto", which is in one piece where that fits, "off", or (height, width).

    A tile's size is in pixels of the upscaled frame. `vram`: bytes that may be taken, None for all there are.
    """

    tile: str | tuple[int, int] = "auto"
    vram: int | None = None


@dataclass(frozen=True)
class ExecutorRequest:
    """What to run and on what.

    `weights` is a directory, a bundle, "random[:SEED]" or None (FLASHVSR_WEIGHTS, then the Hugging Face
    cache). `device` and `dtype` may be "auto": the GPU in bfloat16 if there is one, else the CPU in float32.
    """

    stream: StreamConfig
    weights: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    torch: TorchOptions = TorchOptions()
    engines: EngineOptions = EngineOptions()
    tiles: TileOptions = TileOptions()
