"""Sizes of MIRA-Net: everything that decides the shapes of its weights."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from mira.errors import ConfigurationError

# What a file means that lacks a field: networks were so before there was a choice.
BEFORE: dict[str, Any] = {"modulation": "gated", "keeps_local_mean": False}

Guide = Literal["image", "label", "none"]
ModulationKind = Literal["linear", "gated"]


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a network.

    Attributes:
        size: name of the size, or `custom`.
        widths: channels of the four levels, finest first.
        encoder_blocks: blocks of the four levels on the way down; the last level is the bottom.
        decoder_blocks: blocks of the three finer levels on the way up, finest first.
        expansion: channels inside a block as a multiple of its width.
        guidance_width: channels of the guidance's first convolution; the next ones have twice and four times as many.
        instruction_dim: length D of the instruction.
        pathways: dense pathways of each block's output projection, mixed by the instruction; 1 for none.
        guide: what the instruction comes from: the `image`, or, for ablations, the declared `label` or `none`.
        modulation: how the instruction modulates a block; `gated` is that of the weights from before `linear`, so that
            a champion of then still serves and is measured beside its successor.
        keeps_local_mean: whether restored PET is scaled to the local mean of its input (`model.units`); weights from
            before it was so were trained without.
        error_map: whether a second head predicts the error of each restored pixel (`model.error_map`).
        slices: how many neighbouring slices the network sees, an odd number: 1 for the slice alone (2-D), 3 for one on
            either side of it (2.5-D). It restores the one in the middle, which is the one that the guidance sees.

    Raises:
        ConfigurationError: for a number of slices that has no middle.
    """

    size: str
    widths: tuple[int, int, int, int]
    encoder_blocks: tuple[int, int, int, int]
    decoder_blocks: tuple[int, int, int]
    expansion: int = 2
    guidance_width: int = 16
    instruction_dim: int = 32
    pathways: int = 1
    guide: Guide = "image"
    modulation: ModulationKind = "linear"
    keeps_local_mean: bool = True
    error_map: bool = False
    slices: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.slices, int) or self.slices < 1 or self.slices % 2 == 0:
            raise ConfigurationError(
                f"A network cannot see {self.slices!r} slices (train.slices). Give an odd number, so that one is in "
                "the middle: 1 for the slice alone, 3 for its two neighbours as well."
            )

    def to_dict(self) -> dict[str, Any]:
        """As plain values for `config.json`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "ModelConfig":
        """From the values of `config.json`.

        Raises:
            ConfigurationError: when the values are not those of a network.
        """
        try:
            fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
            config = cls(**BEFORE | fields)
        except TypeError as error:
            raise ConfigurationError(
                f"The network's configuration cannot be read: {error}. Use its own version."
            ) from error
        odd = [name for name, words in WORDS.items() if getattr(config, name) not in words]
        odd += [name for name, count in COUNTS.items() if not _sizes(getattr(config, name), count)]
        if odd:
            raise ConfigurationError(
                f"The network's configuration has no usable {', '.join(odd)}. Get config.json again; it belongs to the "
                "weights beside it."
            )
        return config


# What `from_dict` takes: words, and how many sizes from 1 to `LARGEST` (0: a number, no list).
WORDS = {"guide": get_args(Guide), "modulation": get_args(ModulationKind)}
COUNTS = {"widths": 4, "encoder_blocks": 4, "decoder_blocks": 3}
COUNTS |= dict.fromkeys(("expansion", "guidance_width", "instruction_dim", "pathways"), 0)
LARGEST = 4096


def _sizes(value: object, count: int) -> bool:
    numbers = value if isinstance(value, tuple) and count else (value,)
    return len(numbers) == max(1, count) and all(type(n) is int and 1 <= n <= LARGEST for n in numbers)


SIZES: dict[str, ModelConfig] = {
    "tiny": ModelConfig("tiny", (16, 32, 48, 64), (1, 1, 1, 2), (1, 1, 1), guidance_width=8),
    "small": ModelConfig("small", (32, 64, 128, 192), (2, 2, 3, 4), (2, 2, 2), guidance_width=16, pathways=3),
    "base": ModelConfig("base", (48, 96, 192, 320), (2, 3, 4, 6), (2, 3, 3), guidance_width=24, pathways=3),
}


def size_config(size: str) -> ModelConfig:
    """The configuration of a named size.

    Raises:
        ConfigurationError: for an unknown name.
    """
    if size not in SIZES:
        raise ConfigurationError(f"Unknown network size {size!r}. Use one of: {', '.join(SIZES)}.")
    return SIZES[size]
