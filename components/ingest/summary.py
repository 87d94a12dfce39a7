"""What ingest tells of each site: counts, and why a site gave nothing."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import Field

from components.ingest.series import Outcome, Rejected
from mira.cases import Record
from mira.dicom.reasons import Reason
from mira.dicom.scan import Scan
from mira.sites import Site

PICTURES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".gif", ".webp"}


class SiteSummary(Record):
    """What a site sent and what became of it.

    Attributes:
        role: train or local.
        minimum_cases: declared minimum; the validate step applies it.
        remark: the site's remark.
        files: files found.
        series: image series found.
        cases: cases stored.
        tasks: cases per task.
        structure_sets: contour sets used.
        unchanged: series that had been taken in before and had not changed.
        duplicates: copies of slices that were left out.
        refused: number of files per reason.
        voxels_in: pixels of all files that were taken.
        voxels_out: voxels stored; equal to voxels_in, or something was lost.
        error: why the site gave no case, "" otherwise.
    """

    role: str
    minimum_cases: int
    remark: str
    files: int = 0
    series: int = 0
    cases: int = 0
    tasks: dict[str, int] = Field(default_factory=dict)
    structure_sets: int = 0
    unchanged: int = 0
    duplicates: int = 0
    refused: dict[str, int] = Field(default_factory=dict)
    voxels_in: int = 0
    voxels_out: int = 0
    error: str = ""


class IngestSummary(Record):
    """Summary of the step, also stored as `ingest.json`.

    Attributes:
        sites: by site id.
        cases: number of cases below the root.
        removed_cases: cases of earlier runs whose source is gone.
        key_id: tells pseudonym keys apart.
        software: name and version.
    """

    sites: dict[str, SiteSummary]
    cases: int
    removed_cases: int
    key_id: str
    software: str


def summarise(
    site: Site,
    found: Scan,
    files: Iterable[Path],
    rejected: list[Rejected],
    outcomes: list[Outcome],
    tasks: Mapping[str, int],
    unchanged: int,
) -> SiteSummary:
    """Count what a site sent and what became of it.

    Args:
        site: the site.
        found: its scan.
        files: its files.
        rejected: everything of it in the quarantine.
        outcomes: what became of its series.
        tasks: its cases per task.
        unchanged: series that needed no work.
    """
    refused: Counter[str] = Counter()
    for item in rejected:
        refused[item.reason] += item.files
    cases = sum(len(outcome.cases) for outcome in outcomes)
    return SiteSummary(
        role=site.role,
        minimum_cases=site.minimum_cases,
        remark=site.remark,
        files=found.files,
        series=len(found.series),
        cases=cases,
        tasks=dict(sorted(tasks.items())),
        structure_sets=len({content for outcome in outcomes for content in outcome.structure_sets}),
        unchanged=unchanged,
        duplicates=sum(outcome.duplicates for outcome in outcomes),
        refused=dict(sorted(refused.items())),
        voxels_in=sum(outcome.voxels_in for outcome in outcomes),
        voxels_out=sum(outcome.voxels_out for outcome in outcomes),
        error="" if cases else _why_nothing(found, files, refused),
    )


def _why_nothing(found: Scan, paths: Iterable[Path], refused: Counter[str]) -> str:
    """Why a site gave no case and what to do."""
    files = found.files
    if not files and not refused:
        return "the folder is empty. Put the site's DICOM files there, or correct `path` in sites.yaml."
    if set(refused) <= {Reason.NOT_DICOM.value, Reason.UNREADABLE.value} and not found.series:
        number = sum(path.suffix.lower() in PICTURES for path in paths)
        pictures = f", {number} of them pictures such as JPEG or PNG" if number else ""
        return (
            f"no DICOM was found among {files} files{pictures}. Export the original DICOM series from the PACS: "
            "pictures hold no Hounsfield units, activity or geometry."
        )
    reasons = "; ".join(f"{count} files: {Reason(reason).text}" for reason, count in refused.most_common(5))
    return f"{files} files, but no usable series. {reasons}. See quarantine.json."
