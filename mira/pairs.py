"""Pairs: (degraded, reference) volumes of a case for a task, with physics and seed.

On disk: `<root>/<task>/<case>/reference.nii`, one `level-<level>.nii` per degradation level,
optionally `structures.nii`, and one `<root>/pairs.json` that lists every pair with its split.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from mira.cases import Record
from mira.errors import ConfigurationError, DataRejected
from mira.storage import read_json, write_json
from mira.tasks import Modality, Task
from mira.volume import Volume, read_nifti

Split = Literal["train", "validation", "test", "local"]


class Physics(Record):
    """The truth of a degradation: what was done, and how strong it is.

    Attributes:
        model: name of the simulator and its version.
        level: dose fraction, count fraction or resolution factor.
        severity: the level on a common scale, 0 (untouched) to 1 (the worst that is trained on); the target
            of the network's degradation indicator.
        seed: seed of the noise.
        parameters: every other number that made the degraded volume.
    """

    model: str
    level: float
    severity: float
    seed: int
    parameters: dict[str, float | int | str | bool]


class PairRecord(Record):
    """One pair. Paths are relative to the root of all pairs."""

    pair_id: str
    task: Task
    case_id: str
    site: str
    patient: str
    split: Split
    modality: Modality
    manufacturer: str
    model_name: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    mr_scale: float | None
    physics: Physics
    reference: str
    degraded: str
    structures: str | None = None

    @property
    def slice_stride(self) -> int:
        """How many slices of the case further the next stored one lies; 1 where they are neighbours."""
        return int(self.physics.parameters.get("slice_stride", 1))


class PairIndex(Record):
    """The list of all pairs.

    Attributes:
        pairs: every pair.
        refused: for cases that gave no pair, `case_id` and the reason.
        data_version: hash over the cases and the pairing parameters; names the data a model was trained on.
    """

    pairs: list[PairRecord]
    refused: dict[str, str]
    data_version: str

    def select(self, *splits: Split, task: Task | None = None) -> list[PairRecord]:
        """Pairs of the given splits, and of one task if named."""
        return [p for p in self.pairs if p.split in splits and (task is None or p.task is task)]


def check_neighbours(pairs: Iterable[PairRecord], slices: int) -> None:
    """Make sure that the stored slices of pairs are neighbours, for a network that sees several at a time.

    Args:
        pairs: what the network is to be trained or measured on.
        slices: how many slices it sees; 1 takes any pairs.

    Raises:
        ConfigurationError: when slices between the stored ones were left out.
    """
    apart = [pair for pair in pairs if pair.slice_stride != 1] if slices > 1 else []
    if apart:
        raise ConfigurationError(
            f"A network that sees {slices} slices (train.slices) needs pairs of neighbouring slices, but {len(apart)} "
            f"pairs hold every n-th slice of their case, e.g. {apart[0].pair_id} (stride {apart[0].slice_stride}). Set "
            "pair.slice_choice: run (or pair.max_slices_per_case: 0 for all slices), and run the pair step again."
        )


def write_index(root: Path, index: PairIndex) -> None:
    """Store the list of pairs."""
    write_json(root / "pairs.json", index.model_dump(mode="json"))


def read_index(root: Path) -> PairIndex:
    """Read the list of pairs.

    Raises:
        DataRejected: when the folder holds no pairs.
    """
    path = root / "pairs.json"
    if not path.is_file():
        raise DataRejected(f"{root} holds no pairs.json. Run the pair step first.")
    return PairIndex.model_validate(read_json(path))


def read_pair(root: Path, pair: PairRecord) -> tuple[Volume, Volume]:
    """(degraded, reference) volumes of a pair, memory-mapped."""
    return read_nifti(root / pair.degraded), read_nifti(root / pair.reference)
