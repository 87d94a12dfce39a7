"""Take in the DICOM of all sites: de-identified cases, and a quarantine that lists everything else with its reason."""

import shutil
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from pydicom import dcmread
from pydicom.dataset import Dataset

from components.ingest.known import KnownFiles
from components.ingest.publish import check_apart, exclusive, publish
from components.ingest.series import SOFTWARE, Done, Job, Outcome, Rejected, find_done, ingest_series
from components.ingest.summary import IngestSummary, SiteSummary, summarise
from components.ingest.workers import Workers, available_cores
from mira.cases import Record, iterate_cases, write_case_table
from mira.dicom import headers as h
from mira.dicom.archive import Opened, opened
from mira.dicom.deidentify import Pseudonyms, load_pseudonyms
from mira.dicom.fitness import check_rules, offered
from mira.dicom.headers import tolerant
from mira.dicom.reasons import Reason, Refused
from mira.dicom.scan import FoundSeries, RejectedFile, Scan, gather, modality_code
from mira.dicom.structures import References, read_structure_set, references
from mira.errors import ConfigurationError, DataRejected, RetryableError
from mira.progress import track
from mira.sites import Site, load_sites
from mira.storage import hash_file, read_json, write_json

LEDGER = ".ingest"
SEEN = ".seen"


class IngestConfig(Record):
    """Parameters of ingest."""

    workers: int = Field(0, ge=0, description="processes that read series at once; 0 takes one per processor")
    minimum_size: int = Field(16, ge=1, description="smallest number of rows and columns of a case, in pixels")
    patient_scope: Literal["project", "site"] = Field(
        "project",
        description="where patient IDs are unique: `project` treats the same ID at two sites as one patient, whoever "
        "issued it, so that nobody can be in training and in the local set at once; `site` treats them as two, unless "
        "both name the same issuer",
    )
    verify: bool = Field(
        False, description="read and hash every file again, also those that nothing has touched since the last ingest"
    )
    store: str = Field(
        "",
        description="folder that outlives a run, where cases are kept and what was read is remembered; the output gets "
        "hard links to its files, or copies where that is not possible. Empty: the output itself is that folder",
    )
    keep_other_sites: bool = Field(
        False, description="keep cases of sites that sites.yaml does not name; else their cases are removed"
    )


@dataclass
class _SiteWork:
    """One site while it is worked on."""

    site: Site
    source: Opened
    scan: Scan
    indices: dict[Path, int]
    known: KnownFiles
    sets: dict[Path, References] = field(default_factory=dict)
    jobs: list[Job] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    unchanged: int = 0

    def note(self, job: Job, done: Done) -> None:
        """Enter what became of a series."""
        self.outcomes[done.key] = done.outcome
        self.unchanged += done.unchanged
        self.known.note_contents(zip(job.files, done.contents, strict=True))


def ingest(sites_file: Path, out: Path, config: IngestConfig) -> IngestSummary:
    """Read every site's DICOM into de-identified cases.

    Series that were taken in before and have not changed are not read again: the content of their files decides. A
    run that was cut off goes on where it stopped. Cases whose source is gone are removed, so that `out` always is what
    the sites send now. One bad site does not stop the others.

    Args:
        sites_file: sites.yaml.
        out: root of all cases; also gets `cases.parquet`, `quarantine.json` and `ingest.json`.
        config: parameters.

    Returns:
        Counts per site.

    Raises:
        ConfigurationError: for a sites.yaml or a key that cannot be used.
        RetryableError: when disk or network fail.
        DataRejected: when no site gave a single case; the files above are written first.
    """
    sites = load_sites(sites_file).sites
    for site in sites:
        check_rules(site)
    return ingest_sites(sites, out, config)


def ingest_sites(sites: list[Site], out: Path, config: IngestConfig) -> IngestSummary:
    """The same for sites that are already loaded; see `ingest`."""
    pseudonyms = load_pseudonyms()
    store = Path(config.store) if config.store else out
    if config.store:
        check_apart(store, out)
    try:
        with exclusive(store / LEDGER):
            _check_key(sites, store, config, pseudonyms)
            try:
                return _ingest_into(sites, store, config, pseudonyms)
            finally:
                if config.store:
                    publish(store, out)
    except OSError as error:  # its text names a file, and a hospital's file names carry patients
        raise RetryableError(
            f"Storage failed: {error.strerror or type(error).__name__}. Make sure that the sites' files are there and "
            "that the disk has space, then run again: finished series are kept."
        ) from None


def _check_key(sites: list[Site], out: Path, config: IngestConfig, pseudonyms: Pseudonyms) -> None:
    """Make sure that cases which stay were named with the same key: else one patient would have two names.

    Raises:
        ConfigurationError: when they were not.
    """
    before = _summary_before(out) if config.keep_other_sites else None
    if before is not None and before.key_id != pseudonyms.key_id and set(before.sites) - {site.id for site in sites}:
        raise ConfigurationError(
            f"The other sites' cases in {out} were de-identified with another pseudonym key: one patient would have "
            "two names. Bring that key back, give another --out, or ingest all sites again with --sites."
        )


def _ingest_into(sites: list[Site], out: Path, config: IngestConfig, pseudonyms: Pseudonyms) -> IngestSummary:
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        workers = Workers(config.workers or available_cores())
        stack.callback(workers.close)
        works = []
        for site in sites:
            known = KnownFiles(out / LEDGER / SEEN / f"{site.id}.json", SOFTWARE, pseudonyms, config.verify)
            source = stack.enter_context(opened(site.path, known.knows_all))
            looks = known.look_at_all(source, workers, f"scan {site.id}")
            with tolerant():
                found = gather(source, looks)
                works.append(_prepare(site, source, found, known, out, pseudonyms, config))
            _check_not_emptied(works[-1], out)
        _run(works, workers)
        for work in works:
            _list_unused_structures(work)
            work.known.store()
    removed = _remove_stale(works, out, config)
    return _store(works, out, removed, pseudonyms)


def _prepare(
    site: Site,
    source: Opened,
    found: Scan,
    known: KnownFiles,
    out: Path,
    pseudonyms: Pseudonyms,
    config: IngestConfig,
) -> _SiteWork:
    indices = {path: number for number, path in enumerate(source.files)}
    work = _SiteWork(site, source, found, indices, known)
    work.rejected = [_rejected_file(work, item) for item in found.rejected]
    source.unpack(found.structure_sets)
    for path in found.structure_sets:
        try:
            work.sets[path] = references(read_structure_set(path))
        except Refused as error:
            work.rejected.append(_rejected_file(work, RejectedFile(path, "RTSTRUCT", error.reason)))
    for series in found.series:
        if site.series and not offered(site, _whole_header(series)):
            work.rejected.append(_not_offered(work, series))
            continue
        work.jobs.append(
            Job(
                site=site,
                modality=modality_code(series.header),
                files=series.files,
                pixels=series.pixels,
                indices=[indices[path] for path in series.files],
                structure_sets=_structure_sets_for(series, work.sets),
                out=out,
                ledger=out / LEDGER / site.id,
                pseudonyms=pseudonyms,
                patient_scope=site.id if config.patient_scope == "site" else "",
                minimum_size=config.minimum_size,
            )
        )
    return work


def _whole_header(series: FoundSeries) -> Dataset:
    """Header of the first file with all its attributes: rules may name some that the scan does not read."""
    try:
        return dcmread(series.files[0], stop_before_pixels=True, force=True)
    except Exception:
        return series.header  # damaged further down: reading the series will tell


def _structure_sets_for(series: FoundSeries, sets: dict[Path, References]) -> list[Path]:
    """Structure sets that name the series, or may name its instances: the same frame of reference and no series."""
    frame = h.uid(series.header, "FrameOfReferenceUID")
    return [
        path
        for path, refers in sets.items()
        if series.series_uid in refers.series or (not refers.series and frame in refers.frames)
    ]


def _run(works: list[_SiteWork], workers: Workers) -> None:
    """Take in all series: those that are known to be unchanged at once, the others by the workers, largest first."""
    rest = []
    for work in works:
        left = []
        for job in work.jobs:
            contents = work.known.contents(job.files)
            done = find_done(job, contents) if contents is not None else None
            if done is None:
                left.append((work, job))
            else:
                work.note(job, done)
        work.source.unpack(path for _, job in left for path in job.files)
        rest += left
    rest.sort(key=lambda pair: -sum(pair[1].pixels))
    results = workers.each(ingest_series, [job for _, job in rest])
    for index, done in track(results, "ingest", total=len(rest), unit="series"):
        work, job = rest[index]
        work.note(job, done if done is not None else _crashed(work, job))


def _crashed(work: _SiteWork, job: Job) -> Done:
    """A series whose decoder killed its process, twice."""
    item = _rejected_file(work, RejectedFile(job.files[0], "", Reason.CRASHED))
    lost = item.model_copy(update={"kind": "series", "files": len(job.files)})
    return Done(f"crashed-{job.indices[0]}", Outcome(rejected=[lost]), False, [""] * len(job.files))


def _list_unused_structures(work: _SiteWork) -> None:
    used = {content for outcome in work.outcomes.values() for content in outcome.structure_sets}
    for path in work.sets:
        if hash_file(path) not in used:
            work.rejected.append(_rejected_file(work, RejectedFile(path, "RTSTRUCT", Reason.STRUCTURES)))


def _rejected_file(work: _SiteWork, item: RejectedFile) -> Rejected:
    known = item.path in work.indices
    return Rejected(
        site=work.site.id,
        kind="file" if known else "source",
        index=work.indices.get(item.path, -1),
        content=work.known.content(item.path)[:12] if known else "",
        modality=item.modality,
        reason=item.reason.value,
        text=item.reason.text,
        detail=item.detail,
        files=1,
    )


def _not_offered(work: _SiteWork, series: FoundSeries) -> Rejected:
    item = _rejected_file(work, RejectedFile(series.files[0], modality_code(series.header), Reason.NOT_OFFERED))
    return item.model_copy(update={"kind": "series", "files": len(series.files)})


def _check_not_emptied(work: _SiteWork, out: Path) -> None:
    """A site that sent cases and now holds no file at all is more likely not mounted than empty.

    Raises:
        RetryableError: for such a site; nothing is removed.
    """
    before = len(list((out / work.site.id).glob("*/case.json")))
    if before and not work.scan.files:
        raise RetryableError(
            f"{work.site.id} holds no file now, but {before} cases of it were taken in before. Is its share mounted? "
            "If the data is really gone, take the site out of sites.yaml."
        )


def _remove_stale(works: list[_SiteWork], out: Path, config: IngestConfig) -> int:
    """Remove cases and ledger entries whose source is gone; of other sites too, unless they are to be kept."""
    removed = 0
    for left in out.rglob(".partial-*"):  # of a run that was killed
        left.unlink()
    cases = {(work.site.id, case) for work in works for outcome in work.outcomes.values() for case in outcome.cases}
    named = {work.site.id for work in works}
    for folder in sorted(path.parent for path in out.glob("*/*/") for path in [path / "image.nii"] if path.is_file()):
        site = folder.parent.name
        own = (folder / "case.json").is_file() or all(path.suffix == ".nii" for path in folder.iterdir())
        if own and (site, folder.name) not in cases and (site in named or not config.keep_other_sites):
            shutil.rmtree(folder)
            removed += 1
    for work in works:
        for entry in (out / LEDGER / work.site.id).glob("*.json"):
            if entry.stem not in work.outcomes:
                entry.unlink()
    return removed


def _store(works: list[_SiteWork], out: Path, removed: int, pseudonyms: Pseudonyms) -> IngestSummary:
    records = [record for _, record in iterate_cases(out)]
    tasks: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        tasks[record.site].update(task.value for task in record.tasks)
    sites = {work.site.id: _summarise(work, tasks[work.site.id]) for work in works}
    rejected = sorted(
        (item for work in works for item in [*work.rejected, *_of_series(work)]),
        key=lambda item: (item.site, item.index, item.reason),
    )
    others, kept = _kept(out, {record.site for record in records} - set(sites))
    summary = IngestSummary(
        sites={**others, **sites},
        cases=len(records),
        removed_cases=removed,
        key_id=pseudonyms.key_id,
        software=SOFTWARE,
    )
    items = [*kept, *(item.model_dump(mode="json") for item in rejected)]
    counts = {name: site.refused for name, site in summary.sites.items()}
    write_json(out / "quarantine.json", {"software": SOFTWARE, "counts": counts, "rejected": items})
    write_json(out / "ingest.json", summary.model_dump(mode="json"))
    if not records:
        write_case_table(out, records)
        raise DataRejected("No site gave a usable case.\n" + "\n".join(f"{s}: {v.error}" for s, v in sites.items()))
    write_case_table(out, records)
    return summary


def _summarise(work: _SiteWork, tasks: Counter[str]) -> SiteSummary:
    rejected, outcomes = [*work.rejected, *_of_series(work)], list(work.outcomes.values())
    return summarise(work.site, work.scan, work.indices, rejected, outcomes, tasks, work.unchanged)


def _kept(out: Path, names: set[str]) -> tuple[dict[str, SiteSummary], list[dict[str, Any]]]:
    """What earlier runs said of sites that this run does not name and whose cases stay."""
    before = _summary_before(out) if names else None
    if before is None:
        return {}, []
    items = read_json(out / "quarantine.json")["rejected"]
    return (
        {name: site for name, site in before.sites.items() if name in names},
        [item for item in items if item["site"] in names],
    )


def _summary_before(out: Path) -> IngestSummary | None:
    """What the last ingest told, or None."""
    path = out / "ingest.json"
    return IngestSummary.model_validate(read_json(path)) if path.is_file() else None


def _of_series(work: _SiteWork) -> list[Rejected]:
    return [item for outcome in work.outcomes.values() for item in outcome.rejected]
