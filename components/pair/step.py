"""Pair: accepted cases to (degraded, reference) pairs for each task, at several levels, split by patient."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from pydantic import Field, field_validator

from components.command import announce
from components.pair.splits import assign, previous_splits
from components.pair.work import Made, SliceChoice, Work, degraded_name, digest, make
from mira.cases import CaseRecord, Record, iterate_cases
from mira.degrade.interface import severity
from mira.degrade.mr import warnings_of
from mira.degrade.options import OptionValue
from mira.errors import DataRejected
from mira.pairs import PairIndex, PairRecord, Split, read_index, write_index
from mira.progress import track
from mira.storage import read_json
from mira.tasks import TASKS, Modality, Task, Unit


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
        32, ge=0, description="slices of a case that are paired, as slice_choice says; 0 for all"
    )
    slice_choice: SliceChoice = Field(
        "spread",
        description="`spread`: at even distances through the case; `run`: neighbours, from its middle, for networks "
        "that see several slices (train.slices)",
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
        warnings: codes of what was odd about a case's physics but could be handled.
        data_version: names the data; changes when cases, parameters, simulators or splits do.
        reused: case and task combinations taken over from an earlier run of the step.
    """

    tasks: list[Task]
    counts: dict[str, int]
    refused: dict[str, str]
    warnings: dict[str, list[str]]
    data_version: str
    reused: int


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
    version = digest([[item.key for item in work], sorted(splits.items())])[:16]
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
                slice_choice=config.slice_choice,
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
        warnings={pair.case_id: codes for pair in index.pairs if (codes := warnings_of(pair.physics))},
        data_version=index.data_version,
        reused=reused,
    )
