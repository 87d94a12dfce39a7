"""The work on one case for one task, done in a process of its own: what it depends on, and the pairs it makes."""

import hashlib
import json
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from mira.cases import CaseRecord, Record, read_volume
from mira.degrade.interface import VERSIONS, degrade
from mira.degrade.options import OptionValue
from mira.degrade.pet_attenuation import PairedCt
from mira.errors import DataRejected
from mira.pairs import Physics
from mira.storage import atomic_folder, read_json, write_json
from mira.tasks import Task
from mira.volume import Volume, read_nifti, write_nifti

SliceChoice = Literal["spread", "run"]
STEP_VERSION = 1  # raise when the same inputs and config would give other pairs


class Work(Record):
    """One case for one task: what a worker process is given.

    Attributes:
        case_folder: where the case lies.
        record: the case.
        task: the task.
        levels: levels to make.
        seed: seed of the run.
        max_slices: slices to take at most; 0 for all.
        slice_choice: which of them, see `choose_slices`.
        out: root of all pairs.
        options: parameters of the simulator.
        ct_folder: for a PET, where the CT of its examination lies; None without one.
        ct_record: that CT.
    """

    case_folder: Path
    record: CaseRecord
    ct_folder: Path | None = None
    ct_record: CaseRecord | None = None
    task: Task
    levels: tuple[float, ...]
    seed: int
    max_slices: int
    slice_choice: SliceChoice = "spread"
    options: dict[str, OptionValue] = Field(default_factory=dict)
    out: Path

    @property
    def folder(self) -> Path:
        """Folder of the case's pairs, relative to the root of all pairs."""
        return Path(str(self.task)) / self.record.case_id

    @property
    def key(self) -> str:
        """Hash of all that the pairs depend on; equal keys mean equal pairs."""
        facts = [
            STEP_VERSION,
            VERSIONS[self.task],
            self.record.model_dump(mode="json"),
            list(self.levels),
            self.seed,
            self.max_slices,
        ]
        if self.slice_choice != "spread":
            facts.append(self.slice_choice)
        if self.options:
            facts.append(self.options)
        if self.ct_record is not None:
            facts.append(self.ct_record.model_dump(mode="json"))
        return digest(facts)

    def paired_ct(self) -> PairedCt | None:
        """The CT that tells a PET's attenuation."""
        if self.ct_folder is None or self.ct_record is None:
            return None
        return PairedCt(read_volume(self.ct_folder), self.ct_record.protocol.kvp)


class Made(Record):
    """What one work gave: pairs without their split, or the reason why none."""

    key: str
    shape: tuple[int, int, int] | None = None
    spacing_mm: tuple[float, float, float] | None = None
    physics: list[Physics] = Field(default_factory=list)
    structures: bool = False
    refused: str | None = None
    reused: bool = Field(False, exclude=True)


def make(work: Work) -> Made:
    """Make all levels of one case for one task, or take them over when nothing changed.

    The folder appears in one move, with all levels and a `pair.json` that holds the key of its inputs.
    """
    target = work.out / work.folder
    done = target / "pair.json"
    if done.is_file():
        earlier = Made.model_validate(read_json(done))
        if earlier.key == work.key:
            return earlier.model_copy(update={"reused": True})
    whole = read_volume(work.case_folder)
    first, stride = choose_slices(len(whole.voxels), work.max_slices, work.slice_choice)
    reference = every(whole, first, stride, work.max_slices)
    try:
        with atomic_folder(target) as folder:
            physics = []
            for level in work.levels:
                degraded, truth = degrade(
                    reference,
                    work.task,
                    level,
                    noise_seed(work, level),
                    work.record,
                    options=work.options,
                    paired_ct=work.paired_ct(),
                    workers=1,  # the cases are what runs in parallel
                )
                write_nifti(folder / degraded_name(level), degraded)
                chosen = {"first_slice": first, "slice_stride": stride}
                physics.append(truth.model_copy(update={"parameters": {**truth.parameters, **chosen}}))
            write_nifti(folder / "reference.nii", reference)
            structures = work.case_folder / "structures.nii"
            if structures.is_file():
                write_nifti(folder / "structures.nii", every(read_nifti(structures), first, stride, work.max_slices))
            result = Made(
                key=work.key,
                shape=reference.voxels.shape,
                spacing_mm=reference.spacing,
                physics=physics,
                structures=structures.is_file(),
            )
            write_json(folder / "pair.json", result.model_dump(mode="json"))
    except DataRejected as error:
        return Made(key=work.key, refused=str(error))
    return result


def choose_slices(count: int, maximum: int, choice: SliceChoice = "spread") -> tuple[int, int]:
    """First slice and stride that take at most `maximum` of `count` slices; all of them for 0.

    They are spread evenly through the case, or are the neighbours of a run in its middle. A constant stride keeps the
    volume regular: its affine still tells where every slice lies.
    """
    if maximum == 0 or count <= maximum:
        return 0, 1
    if choice == "run":
        return (count - maximum) // 2, 1
    stride = -(-count // maximum)
    taken = min(maximum, -(-count // stride))
    return (count - 1 - (taken - 1) * stride) // 2, stride


def every(volume: Volume, first: int, stride: int, maximum: int) -> Volume:
    """Every `stride`-th slice of a volume from `first` on, with the affine of what is left."""
    affine = volume.affine.copy()
    affine[:3, 3] += first * affine[:3, 2]
    affine[:3, 2] *= stride
    voxels = volume.voxels[first::stride]
    return Volume(np.ascontiguousarray(voxels[:maximum] if maximum else voxels, dtype=np.float32), affine)


def noise_seed(work: Work, level: float) -> int:
    """Seed of one pair's noise, from the case, task, level and seed of the run alone."""
    text = f"noise|{work.record.case_id}|{work.task}|{level:g}|{work.seed}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big")


def degraded_name(level: float) -> str:
    """File name of a degraded volume."""
    return f"level-{level:g}.nii"


def digest(facts: object) -> str:
    """SHA-256 of plain values, in hexadecimal."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
