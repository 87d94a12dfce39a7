"""What goes with every copy of weights: licence and attribution of those that a training began from.

They stand in the model card of a start. A training writes them beside its own weights, with those that came with the
start itself, and the register step puts them into the model card of the version.
"""

import re
from pathlib import Path

NOTICE = "STARTED_FROM.md"  # beside the weights of a checkpoint folder
HEADING = re.compile(r"^(#+) ", re.MULTILINE)
DATA = re.compile(r"^## Data\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)


def notice_of(folder: Path, label: str) -> str:
    """The notice for weights that begin from a checkpoint folder; empty where it has neither card nor notice.

    Args:
        folder: the checkpoint that a training begins from.
        label: name and version of its weights.

    Raises:
        ConfigurationError: when its model card cannot be read.
    """
    from model.released import CARD, read_card

    parts = []
    if (folder / CARD).is_file():
        licence = read_card(folder / CARD).license
        parts.append(f"### {label}\n\nLicence: {licence}\n\n{_data(folder / CARD)}\n")
    parts += read_notices([folder])
    return "\n".join(parts)


def read_notices(folders: list[Path]) -> list[str]:
    """The notices beside the weights of checkpoint folders, each once."""
    found = [(folder / NOTICE).read_text(encoding="utf-8") for folder in folders if (folder / NOTICE).is_file()]
    return list(dict.fromkeys(found))


def _data(card: Path) -> str:
    """The section of a card about its data, which attributes them; all of a card without such a section."""
    text = card.read_text(encoding="utf-8").split("---\n", 2)[2]
    section = DATA.search(text)
    return HEADING.sub(r"###\1 ", section[1] if section else text).strip()
