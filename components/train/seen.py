"""The patients whose images weights have seen, told with every checkpoint: nothing may be proved on them later.

A split that is drawn anew from grown data makes test patients of former train patients. The pairs of the new training
cannot show that; only what its start and the champion were trained on can. Patients are pseudonyms (keyed hashes),
which agree between runs of one key.
"""

from collections.abc import Iterable
from pathlib import Path

from pydantic import Field

from mira.cases import Record
from mira.errors import DataRejected
from mira.pairs import PairIndex
from mira.storage import read_json
from mira.tasks import Task

KEY = "seen"  # of training.json


class Seen(Record):
    """What weights have seen, those that they began from among it.

    Attributes:
        patients: pseudonyms of train and validation patients, sorted.
        unknown: names of the weights behind these whose patients nobody wrote down.
    """

    patients: list[str] = Field(default_factory=list)
    unknown: list[str] = Field(default_factory=list)


def seen_after(index: PairIndex, tasks: Iterable[Task], start: Seen) -> Seen:
    """What weights will have seen after a training.

    Args:
        index: pairs of the training.
        tasks: tasks that it learns.
        start: what the weights that it begins from have seen; nothing where it begins from scratch.
    """
    own = {pair.patient for task in tasks for pair in index.select("train", "validation", task=task)}
    return Seen(patients=sorted(own.union(start.patients)), unknown=start.unknown)


def seen_by(folder: Path, name: str) -> Seen:
    """What the weights of a checkpoint folder have seen.

    Args:
        folder: the checkpoint.
        name: what to call the weights when their patients are unknown: those of others, or trained before there was
            such a list.
    """
    path = folder / "training.json"
    written = read_json(path).get(KEY) if path.is_file() else None
    return Seen(unknown=[name]) if written is None else Seen.model_validate(written)


def refuse_seen(index: PairIndex, seen: Seen, whose: str) -> None:
    """Refuse pairs that would prove something on patients whom weights have seen.

    Args:
        index: pairs that are trained and measured on.
        seen: patients of the weights.
        whose: the weights in words.

    Raises:
        DataRejected: saying how many patients of which split, and what to do.
    """
    known = set(seen.patients)
    found = []
    for split in ("test", "local"):
        patients = {pair.patient for pair in index.select(split)}
        if both := len(patients & known):
            found.append(f"{both} of {len(patients)} {split} patients")
    if found:
        raise DataRejected(
            f"{' and '.join(found)} were in train or validation of {whose}: figures on them would be too good. Set "
            "pair.previous to the pairs.json that it was trained on (its folder will do), so that every patient keeps "
            "the split; then pair and train again."
        )
