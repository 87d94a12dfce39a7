"""Weights by name: those that come with the project, or a checkpoint folder.

Released weights lie in `model/released/<size>/`: `model.safetensors`, `config.json`, and `MODEL_CARD.md`, whose opening
block of YAML says to programs what the rest says to people: name, version, SHA-256 of the weights, data sets.
"""

from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from mira.cases import Record
from mira.errors import ConfigurationError
from mira.storage import hash_file
from model.checkpoint import read_checkpoint
from model.config import SIZES

RELEASED = "released"  # the word that stands for them in `start_from` and `--weights`
ROOT = Path(__file__).parent / RELEASED
CARD, WEIGHTS = "MODEL_CARD.md", "model.safetensors"
LARGEST_BYTES = 15_000_000


class Card(Record):
    """What the opening block of a model card says.

    Attributes:
        name: name of the network in derived series and lineages; at most 64 characters, as DICOM allows.
        version: its version; the same limit.
        size: name of its size.
        license: under what it may be used.
        weights_sha256: SHA-256 of `model.safetensors`.
        datasets: names of the data sets that it was trained on; never a patient's or a case's.
    """

    name: str = Field(min_length=1, max_length=64)
    version: str = Field(min_length=1, max_length=64)
    size: str
    license: str
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    datasets: list[str] = Field(min_length=1)


@dataclass(frozen=True)
class Weights:
    """A checkpoint folder with its name.

    Attributes:
        folder: where `model.safetensors` and `config.json` are.
        name: of the card, or the name that it would be served by.
        version: of the card, or the first twelve digits of the SHA-256.
        sha256: of `model.safetensors`.
        datasets: what the card says that it was trained on; empty without a card.
    """

    folder: Path
    name: str
    version: str
    sha256: str
    datasets: tuple[str, ...] = ()


def find_weights(word: str, size: str = "") -> Weights:
    """The weights that a word names.

    Args:
        word: `released`, or the path of a checkpoint folder.
        size: which released weights; empty for those of the largest size that there is.

    Raises:
        ConfigurationError: when there are none, or they are not those of their card.
        DataRejected: when the folder is not a complete checkpoint.
    """
    return weights_in(released_folder(size) if word == RELEASED else Path(word))


def released_folder(size: str = "") -> Path:
    """Folder of the released weights of a size; empty for the largest that there is.

    Raises:
        ConfigurationError: when there are none.
    """
    present = [name for name in SIZES if (ROOT / name / WEIGHTS).is_file()]
    wanted = size or (present[-1] if present else "")
    if wanted in present:
        return ROOT / wanted
    what = f"of size {size} " if size else ""
    others = f" There are some of size {' and '.join(present)}." if present else ""
    raise ConfigurationError(
        f"This installation has no released weights {what}in {ROOT}.{others} Give the folder of a trained network "
        "(model.safetensors and config.json) in place of `released`."
    )


def weights_in(folder: Path) -> Weights:
    """The weights of a checkpoint folder.

    Raises:
        ConfigurationError: when there is no such folder, or its card is of other weights or cannot be read.
        DataRejected: when the folder is not a complete checkpoint.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"{folder} is not a folder. Give `released`, or a folder with model.safetensors and config.json."
        )
    checkpoint, sha256 = read_checkpoint(folder), hash_file(folder / WEIGHTS)
    if not (folder / CARD).is_file():
        return Weights(folder, checkpoint.served_name, sha256[:12], sha256)
    card = read_card(folder / CARD)
    if card.weights_sha256 != sha256:
        raise ConfigurationError(
            f"{folder / WEIGHTS} is not the file of its {CARD} (SHA-256 {sha256[:12]}…, the card says "
            f"{card.weights_sha256[:12]}…). Get the released folder again; remove the card from weights of your own."
        )
    return Weights(folder, card.name, card.version, sha256, tuple(card.datasets))


def read_card(path: Path) -> Card:
    """The opening block of a model card.

    Raises:
        ConfigurationError: naming what is missing.
    """
    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    try:
        if len(parts) < 3 or parts[0].strip():
            raise ValueError("it does not open with a block of YAML between two lines of ---")
        return Card.model_validate(yaml.safe_load(parts[1]))
    except ValidationError as error:
        what = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'block'}: {e['msg']}" for e in error.errors())
        raise ConfigurationError(f"{path} cannot be used: {what}. Complete it.") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be used: {error}. Complete it.") from error
