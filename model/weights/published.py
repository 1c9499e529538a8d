"""The published FlashVSR v1.1 files: names, sizes and checksums (model.md section 1)."""

from dataclasses import dataclass

from flashvsr_trt.config.presets import PRESETS, NetworkConfig

REPOSITORY = "JunhaoZhuang/FlashVSR-v1.1"
"""Hugging Face repository of the three networks."""

VERSION = "v1.1"


@dataclass(frozen=True)
class PublishedFile:
    """One file, by the part of the weights that it holds."""

    part: str
    name: str
    size: int
    sha256: str


# v1 (JunhaoZhuang/FlashVSR) has the same names, keys and shapes, so only the checksum tells them apart.
# Several public manifests that pin revisions ad1aceea and 27561b18 agree on every value here.
NETWORK_FILES = (
    PublishedFile(
        part="projector",
        name="LQ_proj_in.ckpt",
        size=575_694_948,
        sha256="d6d011cdaaba6a52645086caa08fa04124e746f6ca568140a24007591142bfd2",
    ),
    PublishedFile(
        part="dit",
        name="diffusion_pytorch_model_streaming_dmd.safetensors",
        size=5_676_070_392,
        sha256="bd28180edcf3446c028e32fc6b731a80bf7e4da2ab4caac3186b9499964d37be",
    ),
    PublishedFile(
        part="decoder",
        name="TCDecoder.ckpt",
        size=189_018_333,
        sha256="e224bdcf2f52745cbf4d393ff5374c2ba09e90285d5d19062d2bf63b915b6161",
    ),
)

PROMPT_FILE = PublishedFile(
    part="prompt",
    name="posi_prompt.pth",
    size=4_195_504,
    sha256="4601107a11e4e11a936a6b79df579e54dbc99872132bf542151f0ffd65b4b1ef",
)

PROMPT_URL = (
    "https://raw.githubusercontent.com/OpenImagingLab/FlashVSR/"
    "b527c6f285fb30df530f5febc8b45764a789c961/examples/WanVSR/prompt_tensor/posi_prompt.pth"
)
"""The prompt is in the code repository, not with the weights."""

FILES = {file.part: file for file in (*NETWORK_FILES, PROMPT_FILE)}
"""The file of each part, in loading order."""


def is_published(network: NetworkConfig) -> bool:
    return any(preset.published and preset.network == network for preset in PRESETS)
