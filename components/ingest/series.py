"""The work on one series, done in a process of its own: read, check, de-identify, store, and remember it."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from pydicom.dataset import Dataset

from mira import __version__
from mira.cases import CaseRecord, Record, write_case
from mira.dicom import headers as h
from mira.dicom.burned_in import text_warnings
from mira.dicom.deidentify import Pseudonyms
from mira.dicom.elements import Fetched, fetch
from mira.dicom.facts import protocol_facts, scanner_facts, sop_class_uid, transfer_syntax_uid
from mira.dicom.fitness import tasks_of
from mira.dicom.headers import tolerant
from mira.dicom.reasons import Reason, Refused
from mira.dicom.structures import Labels, belongs, rasterise, read_structure_set, references
from mira.dicom.volume import SeriesResult, SeriesVolume, read_volumes
from mira.sites import Site
from mira.storage import hash_file, read_json, write_json

LEDGER_FORMAT = "3"
SOFTWARE = f"mira-net {__version__}"


@dataclass(frozen=True)
class Job:
    """One series to take in.

    Attributes:
        site: the site it came from.
        modality: DICOM modality code.
        files: its DICOM files.
        pixels: pixels that each file's header declares.
        indices: position of each file in the listing of the site, as the quarantine names it.
        structure_sets: RTSTRUCT files that may have been drawn on it.
        out: root of all cases.
        ledger: folder of this site's finished series.
        pseudonyms: the project's key.
        patient_scope: what patient IDs without an issuer are unique in; "" for the whole project.
        minimum_size: smallest number of rows and columns.
    """

    site: Site
    modality: str
    files: list[Path]
    pixels: list[int]
    indices: list[int]
    structure_sets: list[Path]
    out: Path
    ledger: Path
    pseudonyms: Pseudonyms
    patient_scope: str
    minimum_size: int


class Rejected(Record):
    """A file or group of files in the quarantine, without anything that identifies a patient.

    Attributes:
        site: site id.
        kind: `file`, `series` or `source`.
        index: position of the first file in the sorted listing of the site's files, from 0; -1 where there is none.
        content: first 12 digits of the SHA-256 of that file, to find it again; "" where there is none.
        modality: DICOM modality code, "" when unknown.
        reason: reason code.
        text: the reason in plain words.
        detail: figures that go with it.
        files: how many files it concerns.
    """

    site: str
    kind: str
    index: int
    content: str
    modality: str
    reason: str
    text: str
    detail: str
    files: int


class Outcome(Record):
    """What became of one series; also the ledger's entry.

    Attributes:
        cases: ids of the cases it gave.
        records: SHA-256 of the `case.json` of each; a case that a later series of the same UID replaced is known by it.
        sizes: bytes of the voxel files of each; a case that lost one, or a part of one, is known by it.
        rejected: what did not become a case.
        structure_sets: content hashes of the structure sets that were drawn on it.
        duplicates: copies of slices that were left out.
        voxels_in: pixels of all files that were taken, by their own headers.
        voxels_out: voxels stored.
    """

    cases: list[str] = Field(default_factory=list)
    records: list[str] = Field(default_factory=list)
    sizes: list[int] = Field(default_factory=list)
    rejected: list[Rejected] = Field(default_factory=list)
    structure_sets: list[str] = Field(default_factory=list)
    duplicates: int = 0
    voxels_in: int = 0
    voxels_out: int = 0


@dataclass(frozen=True)
class Done:
    """A series that is done with.

    Attributes:
        key: name of its ledger entry.
        outcome: what became of it.
        unchanged: whether it had been taken in before.
        contents: content hash of each of its files.
    """

    key: str
    outcome: Outcome
    unchanged: bool
    contents: list[str]


def ingest_series(job: Job) -> Done:
    """Take in one series, or find that it has been taken in unchanged. Each file is read once."""
    with tolerant():
        fetched = {path: fetch(path) for path in job.files}
        contents = [fetched[path].content for path in job.files]
        done = find_done(job, contents)
        if done is not None:
            return done
        content = _content(contents)
        try:
            outcome = _take_in(job, content, fetched)
        except OSError:
            raise  # a full disk or a lost mount is no property of the series
        except MemoryError:  # nor is a machine that is too small or too busy: the next ingest tries again
            lost = _rejected(job, job.files, Reason.CRASHED, "MemoryError")
            return Done(_key(job, content), Outcome(rejected=[lost]), False, contents)
        except Exception as error:  # its message may quote the header, so only its kind is kept
            outcome = Outcome(rejected=[_rejected(job, job.files, Reason.CRASHED, type(error).__name__)])
    key = _key(job, content)
    if all(item.reason != Reason.NO_DECODER for item in outcome.rejected):  # the next may find a codec
        write_json(job.ledger / f"{key}.json", outcome.model_dump(mode="json"))
    return Done(key, outcome, False, contents)


def find_done(job: Job, contents: list[str]) -> Done | None:
    """What became of a series when it was taken in before, or None when it was not.

    Args:
        job: the series.
        contents: content hash of each of its files.
    """
    key = _key(job, _content(contents))
    entry = job.ledger / f"{key}.json"
    if not entry.is_file():
        return None
    try:
        outcome = Outcome.model_validate(read_json(entry))
    except ValueError:  # a damaged entry is none
        return None
    folders = [job.out / job.site.id / case for case in outcome.cases]
    records = [hash_file(path) if path.is_file() else "" for path in (folder / "case.json" for folder in folders)]
    if records != outcome.records or [_bytes_of_voxels(folder) for folder in folders] != outcome.sizes:
        return None
    return Done(key, outcome, True, contents)


def _bytes_of_voxels(case: Path) -> int:
    """Sum of the sizes of a case's voxel files."""
    return sum(path.stat().st_size for path in case.glob("*.nii"))


def _content(contents: list[str]) -> str:
    return hashlib.sha256("".join(sorted(contents)).encode()).hexdigest()


def _key(job: Job, content: str) -> str:
    """Name of a series' entry in the ledger: its content, and everything else that decides what becomes of it."""
    sets = sorted(hash_file(path) for path in job.structure_sets)
    rules = job.site.model_dump_json(include={"id", "role", "series"})
    return job.pseudonyms.code(
        "ledger", LEDGER_FORMAT, SOFTWARE, content, *sets, rules, job.patient_scope, str(job.minimum_size)
    )


def _take_in(job: Job, content: str, fetched: dict[Path, Fetched]) -> Outcome:
    result = read_volumes(job.files, fetched, compact=True)
    cases, records, sizes, used = list[str](), list[str](), list[int](), set[str]()
    voxels_out, too_small = 0, set[Path]()
    rejected = [_rejected(job, refusal.files, refusal.reason, refusal.detail) for refusal in result.refusals]
    for volume in result.volumes:
        size = volume.volume.voxels.shape
        if min(size[1:]) < job.minimum_size:
            detail = f"{size[1]} x {size[2]} pixels, minimum {job.minimum_size}"
            files = sorted(set(volume.files))
            rejected.append(_rejected(job, files, Reason.TOO_SMALL, detail))
            too_small |= set(files)
            continue
        labels, drawn = _labels(job, volume)
        used |= drawn
        record = _record(job, volume, content, labels, len(cases) + 1)
        shutil.rmtree(record.folder(job.out), ignore_errors=True)
        write_case(job.out, record, volume.volume, labels.volume)
        cases.append(record.case_id)
        records.append(hash_file(record.folder(job.out) / "case.json"))
        sizes.append(_bytes_of_voxels(record.folder(job.out)))
        voxels_out += volume.volume.voxels.size
    return Outcome(
        cases=cases,
        records=records,
        sizes=sizes,
        rejected=rejected,
        structure_sets=sorted(used),
        duplicates=len(result.duplicates),
        voxels_in=_declared(job, result, too_small),
        voxels_out=voxels_out,
    )


def _labels(job: Job, volume: SeriesVolume) -> tuple[Labels, set[str]]:
    """(rasterised contours, content hashes of the structure sets that they come from)."""
    instances = {h.uid(header, "SOPInstanceUID") for header in volume.headers} - {""}
    sets, used = list[Dataset](), set[str]()
    for path in job.structure_sets:
        try:
            dataset = read_structure_set(path)
        except Refused:
            continue  # listed by the scan of the site
        if belongs(references(dataset), volume.headers[0], instances):
            sets.append(dataset)
            used.add(hash_file(path))
    return (rasterise(sets, volume.volume) if sets else Labels(None, 0, [])), used


def _record(job: Job, volume: SeriesVolume, content: str, labels: Labels, number: int) -> CaseRecord:
    header, names = volume.headers[0], job.pseudonyms
    series = names.series(header, content)
    tasks, refusals = tasks_of(volume)
    if "simulated" in volume.warnings:
        tasks, refusals = [], {task.value: "a simulated degradation is no reference to learn from" for task in tasks}
    slices, rows, columns = volume.volume.voxels.shape
    code = names.code("case", job.site.id, series)[:12]
    frame = h.uid(header, "FrameOfReferenceUID")
    return CaseRecord(
        case_id=f"{volume.modality.value.lower()}-{code}" + (f"-{number}" if number > 1 else ""),
        site=job.site.id,
        role=job.site.role,
        patient=names.patient(header, job.patient_scope, content),
        study=names.study(header, content),
        series=series,
        frame_of_reference=names.code("frame-of-reference", frame) if frame else "",
        modality=volume.modality,
        unit=volume.unit,
        shape=(slices, rows, columns),
        spacing_mm=volume.volume.spacing,
        scanner=scanner_facts(header),
        protocol=protocol_facts(header),
        conversion=volume.conversion,
        pet_dose=volume.pet_dose,
        mr_scale=volume.mr_scale,
        tasks=tasks,
        task_refusals=refusals,
        sop_class_uid=sop_class_uid(header),
        transfer_syntax_uid=transfer_syntax_uid(header),
        source_sha256=volume.source_sha256,
        source_files=len(set(volume.files)),
        warnings=sorted({*volume.warnings, *labels.warnings, *text_warnings(volume.volume.voxels)}),
        structures=labels.count,
        software=SOFTWARE,
    )


def _rejected(job: Job, files: list[Path], reason: Reason, detail: str) -> Rejected:
    return Rejected(
        site=job.site.id,
        kind="series",
        index=min(job.indices[job.files.index(path)] for path in files),
        content=hash_file(files[0])[:12],
        modality=job.modality,
        reason=reason.value,
        text=reason.text,
        detail=detail,
        files=len(files),
    )


def _declared(job: Job, result: SeriesResult, too_small: set[Path]) -> int:
    """Pixels of every frame that was neither refused nor a copy, by the headers that the scan read."""
    total = 0
    for path, pixels in zip(job.files, job.pixels, strict=True):
        if path not in too_small:
            total += round(pixels * (1 - result.left_out.get(path, 0.0)))
    return total
