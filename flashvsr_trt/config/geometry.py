"""Every size that follows from an LR frame, a scale and a fit. Arithmetic only."""

from dataclasses import dataclass

from flashvsr_trt.config.presets import (
    LATENT_STRIDE,
    SCALES,
    SIZE_MULTIPLE,
    TOKEN_STRIDE,
    TRAINED_AREA,
    UNIT_LATENT_FRAMES,
    WINDOW_TOKENS,
    AttentionConfig,
)
from flashvsr_trt.errors import UsageError

FITS = ("pad", "crop")


@dataclass(frozen=True)
class Geometry:
    """Sizes of one stream. Heights come before widths everywhere, as in tensors.

    `fit` "pad" replicates the upscaled frame's last row and column to the next multiple of 128 and
    crops the result back; "crop" centre-crops to the multiple below, as the official script does. Scale 1 is
    of frames that are upscaled already: tiles of them.
    """

    height: int
    width: int
    scale: int
    fit: str = "pad"

    def __post_init__(self) -> None:
        if self.scale not in (1, *SCALES):
            raise UsageError(f"scale {self.scale} is not supported; use one of {SCALES}")
        if self.fit not in FITS:
            raise UsageError(f"fit '{self.fit}' is not supported; use one of {FITS}")
        if self.height < 1 or self.width < 1:
            raise UsageError(f"a frame of {self.width}x{self.height} pixels cannot be upscaled")
        if min(self.target) < SIZE_MULTIPLE:
            raise UsageError(
                f"--fit crop needs at least {SIZE_MULTIPLE} pixels a side after upscaling, and "
                f"{self.width}x{self.height} at {self.scale}x is {self.upscaled[1]}x{self.upscaled[0]}; "
                "use --fit pad"
            )

    @property
    def upscaled(self) -> tuple[int, int]:
        """Height and width of the LR frame times the scale."""
        return self.height * self.scale, self.width * self.scale

    @property
    def target(self) -> tuple[int, int]:
        """Height and width the network runs at: multiples of 128."""
        height, width = self.upscaled
        if self.fit == "crop":
            return height // SIZE_MULTIPLE * SIZE_MULTIPLE, width // SIZE_MULTIPLE * SIZE_MULTIPLE
        return -(-height // SIZE_MULTIPLE) * SIZE_MULTIPLE, -(-width // SIZE_MULTIPLE) * SIZE_MULTIPLE

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the frames that come out."""
        return self.upscaled if self.fit == "pad" else self.target

    @property
    def crop_corner(self) -> tuple[int, int]:
        """Row and column of the upscaled frame at which the target starts; nought where it is padded."""
        if self.fit == "pad":
            return 0, 0
        (height, width), (target_height, target_width) = self.upscaled, self.target
        return (height - target_height) // 2, (width - target_width) // 2

    @property
    def latent(self) -> tuple[int, int]:
        """Height and width of the latent grid."""
        return self.target[0] // LATENT_STRIDE, self.target[1] // LATENT_STRIDE

    @property
    def tokens(self) -> tuple[int, int]:
        """Rows and columns of tokens in one latent frame."""
        return self.target[0] // TOKEN_STRIDE, self.target[1] // TOKEN_STRIDE

    @property
    def unit_tokens(self) -> int:
        """Tokens of one unit (2 latent frames)."""
        return UNIT_LATENT_FRAMES * self.tokens[0] * self.tokens[1]

    @property
    def windows(self) -> tuple[int, int]:
        """Rows and columns of the window grid."""
        return self.target[0] // SIZE_MULTIPLE, self.target[1] // SIZE_MULTIPLE

    @property
    def unit_windows(self) -> int:
        """Attention windows of one unit."""
        return self.unit_tokens // WINDOW_TOKENS

    def top_k(self, attention: AttentionConfig) -> int:
        """Blocks a head may keep per query unit (model.md section 4); dense attention has none."""
        if attention.sparse_ratio is None:
            raise ValueError("dense attention keeps every block: it has no top_k")
        ratio = attention.sparse_ratio * TRAINED_AREA / (self.target[0] * self.target[1])
        return int(self.unit_windows * self.unit_windows * ratio) - 1


def nearest_size(height: int, width: int, least: int = SIZE_MULTIPLE) -> str:
    """WIDTHxHEIGHT of the nearest size in multiples of SIZE_MULTIPLE, from `least` on."""
    return "x".join(str(max(least, round(side / SIZE_MULTIPLE) * SIZE_MULTIPLE)) for side in (width, height))
