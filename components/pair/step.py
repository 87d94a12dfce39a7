"""Pair: accepted cases to (degraded, reference) pairs for each task, at several levels, split by patient."""

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from pydantic import Field, field_validator

from components.command import announce
from components.pair.splits import assign, previous_splits
from mira.cases import CaseRecord, Record, iterate_cases, read_volume
from mira.degrade.interface import VERSIONS, degrade, severity
from mira.degrade.options import OptionValue
from mira.degrade.pet_attenuation import PairedCt
from mira.errors import DataRejected
from mira.pairs import PairIndex, PairRecord, Physics, Split, read_index, write_index
from mira.progress import track
from mira.storage import atomic_folder, read_json, write_json
from mira.tasks import TASKS, Modality, Task, Unit
from mira.volume import Volume, read_nifti, write_nifti

STEP_VERSION = 1  # raise when the same inputs and config would give other pairs


class PairConfig(Record):
    """Parameters of the pair step."""

    seed: int = Field(1, ge=0, description="seed of the splits and of all noise")
    tasks: list[Task] = Field(default_factory=lambda: list(Task), description="tasks to make pairs for", min_length=1)
    levels: dict[Task, list[float]] = Field(
        default_factory=dict,
        description="degradation levels per task: dose fractions, count fractions, resolution factors; tasks left out "
        "take 0.25 and 0.1, 0.25 and 0.1, 2 and 4",
    )
    physics: dict[Task, dict[str, OptionValue]] = Field(
        default_factory=dict,
        description="parameters of the simulators in place of those chosen from each scan, per task; what "
        "`mira calibrate` writes has this form",
    )
    site_physics: dict[str, dict[Task, dict[str, OptionValue]]] = Field(
        default_factory=dict, description="the same per site, laid over `physics`, since a calibration is a scanner's"
    )
    max_slices_per_case: int = Field(
        32, ge=0, description="slices of a case that are paired, at even distances through it; 0 for all"
    )
    validation_share: float = Field(0.2, ge=0, le=0.4, description="share of a train site's patients for validation")
    test_share: float = Field(0.2, ge=0, le=0.4, description="share of a train site's patients for test")
    previous: Path | None = Field(
        None, description="an earlier pairs.json (or its folder), whose patients keep their splits"
    )
    workers: int = Field(0, ge=0, description="processes; 0 for one per processor, no influence on the result")

    @field_validator("levels")
    @classmethod
    def _possible(cls, levels: dict[Task, list[float]]) -> dict[Task, list[float]]:
        for task, values in levels.items():
            if not values or len(set(values)) != len(values):
                raise ValueError(f"{task}: give at least one level, each once")
            for value in values:
                try:
                    severity(task, value)
                except Exception as error:
                    raise ValueError(str(error)) from error
        return levels

    def options_of(self, site: str, task: Task) -> dict[str, OptionValue]:
        """Parameters of a task's simulator at a site."""
        return {**self.physics.get(task, {}), **self.site_physics.get(site, {}).get(task, {})}

    def levels_of(self, task: Task) -> tuple[float, ...]:
        """Levels of a task, the defaults where none are given."""
        return tuple(self.levels.get(task, TASKS[task].levels))


class PairSummary(Record):
    """What the pair step made.

    Attributes:
        tasks: tasks with pairs in train.
        counts: pairs per split and task, as `train ct-denoising`, patients per split, as `train patients`, and
            `refused`.
        refused: cases that gave no pair, with the reason.
        data_version: names the data; changes when cases, parameters, simulators or splits do.
        reused: case and task combinations taken over from an earlier run of the step.
    """

    tasks: list[Task]
    counts: dict[str, int]
    refused: dict[str, str]
    data_version: str
    reused: int


class Work(Record):
    """One case for one task: what a worker process is given.

    Attributes:
        case_folder: where the case lies.
        record: the case.
        task: the task.
        levels: levels to make.
        seed: seed of the run.
        max_slices: slices to take at most; 0 for all.
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
        if self.options:
            facts.append(self.options)
        if self.ct_record is not None:
            facts.append(self.ct_record.model_dump(mode="json"))
        return _hash(facts)

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


def pair(cases: Path, validation: Path, out: Path, config: PairConfig) -> PairSummary:
    """Make pairs of all accepted cases.

    A case and task whose inputs did not change is taken over from `out`, so a killed step goes on where it was.

    Args:
        cases: root of all cases, as ingest wrote it.
        validation: validation.json of the validate step, or the folder that holds it.
        out: root of the pairs to write.
        config: parameters.

    Returns:
        What was made.

    Raises:
        DataRejected: when validation does not name accepted cases, a patient would be in two splits, or no pair was
            made.
    """
    accepted = _accepted(cases, validation)
    earlier = read_index(_index_folder(config.previous)).pairs if config.previous is not None else []
    splits = assign(
        (record for _, record in accepted),
        config.seed,
        config.validation_share,
        config.test_share,
        previous_splits(earlier),
    )
    out.mkdir(parents=True, exist_ok=True)
    work, refused = _plan(accepted, out, config)
    made = list(track(_run(work, config.workers), "pairs", total=len(work), unit="case"))
    pairs: list[PairRecord] = []
    for item, result in zip(work, made, strict=True):
        if result.refused is not None:
            refused[item.record.case_id] = result.refused
        pairs += _records(item, result, splits[item.record.patient])
    if not pairs:
        reasons = "; ".join(sorted(set(refused.values()))) or "no case offers one of the wanted tasks"
        raise DataRejected(f"No case could be paired: {reasons}. See the tasks that ingest lists with each case.")
    _remove_stale(out, {item.folder for item, result in zip(work, made, strict=True) if result.refused is None})
    version = _hash([[item.key for item in work], sorted(splits.items())])[:16]
    index = PairIndex(pairs=pairs, refused=refused, data_version=version)
    write_index(out, index)
    return _summary(index, sum(result.reused for result in made))


def _accepted(cases: Path, validation: Path) -> list[tuple[Path, CaseRecord]]:
    """Folders and records of the accepted cases."""
    path = validation / "validation.json" if validation.is_dir() else validation
    if not path.is_file():
        raise DataRejected(f"{path} is missing. Run the validate step first.")
    document = read_json(path)
    if not isinstance(document, dict) or not isinstance(document.get("accepted"), list):
        raise DataRejected(f"{path} does not list the accepted cases. Run the validate step again.")
    wanted = set(document["accepted"])
    found = [(folder, record) for folder, record in iterate_cases(cases) if record.case_id in wanted]
    missing = wanted - {record.case_id for _, record in found}
    if missing:
        raise DataRejected(
            f"{len(missing)} accepted cases, e.g. {min(missing)}, are not below {cases}: the validation is of other "
            "cases. Validate these cases again."
        )
    if len(found) > len(wanted):
        raise DataRejected(f"Some case ids appear twice below {cases}. Ingest into an empty folder.")
    return found


def _index_folder(previous: Path) -> Path:
    return previous.parent if previous.suffix == ".json" else previous


def _plan(accepted: list[tuple[Path, CaseRecord]], out: Path, config: PairConfig) -> tuple[list[Work], dict[str, str]]:
    """Work for every accepted case and wanted task, and the cases that have no wanted task."""
    work, refused = [], {}
    cts = _examination_cts(accepted)
    for folder, record in accepted:
        is_pet = record.modality is Modality.PET
        ct_folder, ct_record = cts.get(_examination(record), (None, None)) if is_pet else (None, None)
        tasks = [task for task in config.tasks if TASKS[task].modality is record.modality]
        if not tasks:
            refused[record.case_id] = f"no task of {record.modality} is wanted"
        work += [
            Work(
                case_folder=folder.absolute(),
                record=record,
                task=task,
                levels=config.levels_of(task),
                seed=config.seed,
                max_slices=config.max_slices_per_case,
                options=config.options_of(record.site, task),
                out=out.absolute(),
                ct_folder=ct_folder,
                ct_record=ct_record,
            )
            for task in tasks
        ]
    return work, refused


def _examination(record: CaseRecord) -> tuple[str, str, str]:
    """What a PET and the CT of the same examination share."""
    return record.patient, record.study, record.frame_of_reference


def _examination_cts(accepted: list[tuple[Path, CaseRecord]]) -> dict[tuple[str, str, str], tuple[Path, CaseRecord]]:
    """For each examination its CT, the longest where there are several; none for those without frame of reference."""
    found: dict[tuple[str, str, str], tuple[Path, CaseRecord]] = {}
    for folder, record in accepted:
        if record.unit is not Unit.HU or not record.frame_of_reference:
            continue
        known = found.get(_examination(record))
        if known is None or _length_mm(record) > _length_mm(known[1]):
            found[_examination(record)] = (folder.absolute(), record)
    return found


def _length_mm(record: CaseRecord) -> float:
    return record.shape[0] * record.spacing_mm[0]


def _run(work: list[Work], workers: int) -> Iterator[Made]:
    """Results in the order of the work, whatever the number of processes."""
    processes = min(workers or len(os.sched_getaffinity(0)), max(1, len(work)))
    if processes == 1:
        yield from _announced(map(make, work), len(work))
        return
    with ProcessPoolExecutor(processes) as pool:
        yield from _announced(pool.map(make, work), len(work))


def _announced(results: Iterable[Made], total: int) -> Iterator[Made]:
    for number, result in enumerate(results, start=1):
        announce(f"{number} of {total} cases paired")
        yield result


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
    first, stride = choose_slices(len(whole.voxels), work.max_slices)
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


def choose_slices(count: int, maximum: int) -> tuple[int, int]:
    """First slice and stride that take at most `maximum` slices evenly through `count`; all of them for 0.

    A constant stride keeps the volume regular: its affine still tells where every slice lies.
    """
    if maximum == 0 or count <= maximum:
        return 0, 1
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


def _records(work: Work, made: Made, split: Split) -> list[PairRecord]:
    """The index entries of one work."""
    if made.shape is None or made.spacing_mm is None:
        return []
    folder, record = work.folder.as_posix(), work.record
    return [
        PairRecord(
            pair_id=f"{record.case_id}_{TASKS[work.task].short}_{physics.level:g}",
            task=work.task,
            case_id=record.case_id,
            site=record.site,
            patient=record.patient,
            split=split,
            modality=record.modality,
            manufacturer=record.scanner.manufacturer,
            model_name=record.scanner.model,
            shape=made.shape,
            spacing_mm=made.spacing_mm,
            mr_scale=record.mr_scale,
            physics=physics,
            reference=f"{folder}/reference.nii",
            degraded=f"{folder}/{degraded_name(physics.level)}",
            structures=f"{folder}/structures.nii" if made.structures else None,
        )
        for physics in made.physics
    ]


def _remove_stale(out: Path, wanted: set[Path]) -> None:
    """Remove pairs of cases that are no longer accepted, and leftovers of a killed run."""
    for task in Task:
        for folder in sorted((out / str(task)).glob("*")):
            leftover = folder.name.startswith((".partial-", ".old-"))
            if leftover or ((folder / "pair.json").is_file() and folder.relative_to(out) not in wanted):
                shutil.rmtree(folder)


def _summary(index: PairIndex, reused: int) -> PairSummary:
    counts = Counter(f"{p.split} {p.task}" for p in index.pairs)
    counts.update(f"{split} patients" for split, _ in sorted({(p.split, p.patient) for p in index.pairs}))
    counts["refused"] = len(index.refused)
    trained = {p.task for p in index.select("train")}
    return PairSummary(
        tasks=[task for task in Task if task in trained],
        counts=dict(sorted(counts.items())),
        refused=index.refused,
        data_version=index.data_version,
        reused=reused,
    )


def _hash(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
