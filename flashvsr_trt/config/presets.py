"""Presets: the network's sizes and how its attention is thinned. Every other room reads them from here."""

from dataclasses import dataclass

from flashvsr_trt.errors import PresetError, did_you_mean

WINDOW = (2, 8, 8)
"""Attention window in tokens: latent frames, rows, columns."""

WINDOW_TOKENS = WINDOW[0] * WINDOW[1] * WINDOW[2]
"""Tokens of one window, which is also one block of the block-sparse attention."""

UNIT_LATENT_FRAMES = WINDOW[0]
"""A unit is what one steady DiT step makes: 2 latent frames, one window deep."""

LATENT_STRIDE = 8
"""Pixels per latent cell, each way."""

FRAMES_PER_LATENT = 4
"""Video frames per latent frame."""

UNIT_FRAMES = UNIT_LATENT_FRAMES * FRAMES_PER_LATENT
"""Video frames of one unit."""

PATCH = 2
"""Latent cells per token, each way."""

TOKEN_STRIDE = LATENT_STRIDE * PATCH
"""Pixels per token, each way."""

SIZE_MULTIPLE = TOKEN_STRIDE * WINDOW[1]
"""The network's target sides are multiples of this: one window."""

LATENT_CHANNELS = 16

TIMESTEP = 1000
"""The one diffusion step the model is distilled to."""

TRAINED_AREA = 768 * 1280
"""Pixels of the size the sparse ratio is counted in (official infer scripts)."""


@dataclass(frozen=True)
class DiTConfig:
    """Sizes of the diffusion transformer (official `wan_video_dit.py`)."""

    dim: int
    heads: int
    ffn_dim: int
    layers: int
    text_dim: int
    text_tokens: int
    freq_dim: int
    eps: float = 1e-6

    @property
    def head_dim(self) -> int:
        """Channels of one attention head."""
        return self.dim // self.heads


@dataclass(frozen=True)
class ProjectorConfig:
    """Channels after each causal convolution of the LR projector (official `Causal_LQ4x_Proj`)."""

    hidden: tuple[int, int]


@dataclass(frozen=True)
class DecoderConfig:
    """Channels of the TC decoder from 1/8 to full resolution (official `TCDecoder.py`)."""

    channels: tuple[int, int, int, int]


@dataclass(frozen=True)
class AttentionConfig:
    """How self-attention is thinned. `sparse_ratio` None is dense."""

    sparse_ratio: float | None
    local_range: int = 11
    past_units: int = 3

    @property
    def ring_slots(self) -> int:
        """K/V ring slots: the past units a step sees, and the one it writes."""
        return self.past_units + 1


@dataclass(frozen=True)
class NetworkConfig:
    """The three networks; two presets with equal networks share weights."""

    dit: DiTConfig
    projector: ProjectorConfig
    decoder: DecoderConfig


@dataclass(frozen=True)
class Preset:
    """A named choice of network and attention."""

    name: str
    description: str
    network: NetworkConfig
    attention: AttentionConfig
    aliases: tuple[str, ...] = ()
    published: bool = True
    """Whether weights for this network are published."""
    packaged_weights: str | None = None
    """The file of trained weights that comes in the package, in its folder `model`."""


FLASHVSR = NetworkConfig(
    dit=DiTConfig(dim=1536, heads=12, ffn_dim=8960, layers=30, text_dim=4096, text_tokens=512, freq_dim=256),
    projector=ProjectorConfig(hidden=(2048, 3072)),
    decoder=DecoderConfig(channels=(512, 256, 128, 128)),
)

NANO_WEIGHTS = "nano.safetensors"

NANO = NetworkConfig(
    dit=DiTConfig(dim=96, heads=3, ffn_dim=384, layers=4, text_dim=64, text_tokens=8, freq_dim=64),
    projector=ProjectorConfig(hidden=(24, 48)),
    # An 8x8 cell of 4 frames at 2x holds 192 LR values: narrower could not carry them.
    decoder=DecoderConfig(channels=(192, 56, 24, 16)),
)

_PUBLISHED = (
    ("sparse-2.0", "sparse-ratio-2.0", 2.0, "sparse attention, ratio 2.0: the most stable"),
    ("sparse-1.5", "sparse-ratio-1.5", 1.5, "sparse attention, ratio 1.5: faster, a little less stable"),
    ("full-attn", "full-attn", None, "dense attention over the same cache; for several GPUs"),
)
"""Name, published name, sparse ratio (None is dense), description."""

_PACKAGED = (
    ("nano", 2.0, "the same classes at a few MB: shows the toolchain at work on a CPU, not for quality"),
    ("nano-full-attn", None, "nano with dense attention"),
)
"""Name, sparse ratio, description."""

PRESETS = (
    *(
        Preset(name, about, FLASHVSR, AttentionConfig(ratio), aliases=(f"flashvsr-v1.1-{published}",))
        for name, published, ratio, about in _PUBLISHED
    ),
    *(
        Preset(name, about, NANO, AttentionConfig(ratio), published=False, packaged_weights=NANO_WEIGHTS)
        for name, ratio, about in _PACKAGED
    ),
)

DEFAULT_PRESET = "sparse-2.0"


@dataclass(frozen=True)
class Schedule:
    """When frames enter and leave.

    `first_units`: units of the first DiT step, which all see each other.
    `lookahead`: frames past its own that a latent frame is conditioned on, as trained.
    """

    name: str
    description: str
    first_units: int
    lookahead: int


SCHEDULES = (
    Schedule(
        name="official",
        description="4 frames of look-ahead, first call of 25 frames: as trained",
        first_units=3,
        lookahead=FRAMES_PER_LATENT,
    ),
    Schedule(
        name="low-latency",
        description="no look-ahead, first call of 5 frames: as FlashDreams streams",
        first_units=1,
        lookahead=0,
    ),
)

SCALES = (2, 4)
CHUNK_SIZES = (8, 16)


def find_preset(name: str) -> Preset:
    """The preset of that name or alias. Raises PresetError naming the nearest."""
    by_name = {key: preset for preset in PRESETS for key in (preset.name, *preset.aliases)}
    return _find("preset", name, by_name)


def find_schedule(name: str) -> Schedule:
    """The schedule of that name. Raises PresetError naming the nearest."""
    return _find("schedule", name, {schedule.name: schedule for schedule in SCHEDULES})


def _find(kind: str, name: str, choices: dict):
    if name in choices:
        return choices[name]
    quoted = [f"'{each}'" for each in choices]
    hint = did_you_mean(f"'{name}'", quoted, f"choose one of: {', '.join(choices)}")
    raise PresetError(f"no {kind} '{name}'; {hint}")
