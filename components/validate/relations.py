"""Facts that need more than one case: copies, patients in two places, and what a site or the data set is made of."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from mira.cases import CaseRecord
from mira.pairs import Split
from mira.tasks import Modality

SITE_FACTS: dict[str, str] = {
    "cases": "number of cases that ingest delivered",
    "accepted": "number of cases that no `must` expectation refused",
    "enough_cases": "at least the declared minimum of cases was accepted",
    "accepted_share": "accepted cases over delivered cases; 0 when nothing was delivered",
    "one_role": "all cases of the site carry the role that sites.yaml gives it",
    "patients": "number of patients",
    "largest_patient_share": "share of the cases that come from one patient",
    "copies": "number of cases that were delivered before, by their source pixels or stored voxels",
    "scanners": "number of scanner models",
    "vendors": "number of manufacturers",
    "kernels": "number of CT reconstruction kernels",
    "kernel_unknown_share": "share of the CT cases without a known kernel; null without CT",
    "scanner_unknown_share": "share of the cases without a known manufacturer",
    "noise_spread": "largest over smallest noise (CT) or noise share (PET, MR), the widest of the modalities",
    "voxels_kept": "ingest stored as many voxels as the DICOM files that it took hold",
}
DATASET_FACTS: dict[str, str] = {
    "cases": "number of accepted cases",
    "train_patients": "patients of accepted train cases",
    "local_patients": "patients of accepted local cases",
    "train_sites": "train sites with accepted cases",
    "train_vendors": "manufacturers among accepted train cases",
    "train_scanners": "scanner models among accepted train cases",
    "train_kernels": "CT kernels among accepted train cases",
    "largest_site_share": "share of the accepted train cases that come from one site",
    "local_scanner_seen_share": "share of the accepted local cases whose scanner model also made train cases",
    "copies": "accepted cases whose source pixels or stored voxels another accepted case has too",
    "patients_in_two_roles": "patients with accepted cases both at a train and at a local site",
    "patients_at_two_sites": "patients with accepted cases at more than one site",
    "patients_in_two_splits": "patients that earlier pairs have in two splits, or in one against their role",
}
WHOLE = "whole data set"


def relate(rows: list[dict[str, Any]], records: list[CaseRecord], splits: Mapping[str, set[Split]]) -> None:
    """Add the facts of cases that need all cases.

    Of several cases with the same pixels one stays, a local one before a training one; a patient who is known to a
    local site leaves the training sites, so that the local set stays unseen.

    Args:
        rows: facts of each case, changed in place.
        records: the cases, in the same order.
        splits: splits of each patient in earlier pairs.
    """
    sites: dict[str, set[str]] = {}
    for record in records:
        sites.setdefault(record.patient, set()).add(record.site)
    local = {record.patient for record in records if record.role == "local" and record.patient}
    order = sorted(range(len(records)), key=lambda i: (records[i].role != "local", records[i].site, records[i].case_id))
    sources, stored = set[str](), set[str]()
    for index in order:
        record, row = records[index], rows[index]
        voxels = row.get("voxels_sha256")
        row["content_new"] = record.source_sha256 not in sources
        row["voxels_new"] = voxels is None or voxels not in stored
        row["patient_not_local"] = record.role == "local" or record.patient not in local
        row["patient_at_one_site"] = not record.patient or len(sites[record.patient]) == 1
        row["split_kept"] = _fits(record, splits.get(record.patient, set()))
        sources.add(record.source_sha256)
        if voxels is not None:
            stored.add(voxels)


def _fits(record: CaseRecord, earlier: set[Split]) -> bool:
    return earlier <= ({"local"} if record.role == "local" else {"train", "validation", "test"})


def scanner_of(record: CaseRecord) -> str:
    """Manufacturer and model, "unknown" without either."""
    return f"{record.scanner.manufacturer} {record.scanner.model}".strip() or "unknown"


def mix(records: Iterable[CaseRecord]) -> list[dict[str, Any]]:
    """Cases per site, modality, scanner and kernel (of PET its reconstruction, of MR its sequence)."""
    counts = Counter(
        (r.site, r.modality.value, scanner_of(r), r.protocol.kernel or r.protocol.reconstruction or _sequence(r))
        for r in records
    )
    names = ("site", "modality", "scanner", "kernel")
    return [dict(zip(names, key, strict=True)) | {"cases": count} for key, count in sorted(counts.items())]


def _sequence(record: CaseRecord) -> str:
    return record.protocol.scanning_sequence.replace("\\", " ") if record.modality is Modality.MR else ""


def site_facts(
    site: str,
    declared: Mapping[str, Any],
    role: str,
    judged: list[tuple[CaseRecord, dict[str, Any]]],
    accepted: set[str],
    minimum_cases: int,
) -> dict[str, Any]:
    """The facts of one site, after its cases were judged.

    Args:
        site: site id.
        declared: what ingest.json says of it.
        role: its role.
        judged: every case with its facts.
        accepted: ids of the cases that no `must` refused.
        minimum_cases: the declared minimum.
    """
    own = [(record, row) for record, row in judged if record.site == site]
    records = [record for record, _ in own]
    ct = [record for record in records if record.modality is Modality.CT]
    count = sum(record.case_id in accepted for record in records)
    patients = Counter(record.patient for record in records)
    return {
        "site": site,
        "cases": len(own),
        "accepted": count,
        "enough_cases": count >= minimum_cases,
        "accepted_share": count / len(own) if own else 0.0,
        "one_role": all(record.role == role for record in records),
        "patients": len(patients),
        "largest_patient_share": max(patients.values()) / len(own) if own else None,
        "copies": sum(not (row["content_new"] and row["voxels_new"]) for _, row in own),
        "scanners": len({scanner_of(record) for record in records} - {"unknown"}),
        "vendors": len({record.scanner.manufacturer.upper() for record in records} - {""}),
        "kernels": len({record.protocol.kernel for record in ct} - {""}),
        "kernel_unknown_share": sum(not record.protocol.kernel for record in ct) / len(ct) if ct else None,
        "scanner_unknown_share": sum(not r.scanner.manufacturer for r in records) / len(own) if own else None,
        "noise_spread": _noise_spread(own),
        "voxels_kept": declared.get("voxels_in", 0) == declared.get("voxels_out", 0),
    }


def _noise_spread(own: list[tuple[CaseRecord, dict[str, Any]]]) -> float | None:
    spreads = []
    for modality in Modality:
        fact = "noise" if modality is Modality.CT else "noise_share"  # the scale of MR differs between scans
        levels = [row[fact] for record, row in own if record.modality is modality and row.get(fact)]
        if len(levels) > 1:
            spreads.append(max(levels) / min(levels))
    return max(spreads, default=None)


def dataset_facts(
    judged: list[tuple[CaseRecord, dict[str, Any]]], splits: Mapping[str, set[Split]]
) -> list[dict[str, Any]]:
    """One row over all accepted cases and one for each of their tasks.

    Args:
        judged: every accepted case with its facts.
        splits: splits of each patient in earlier pairs.
    """
    tasks = sorted({task for record, _ in judged for task in record.tasks})
    rows = [_composition(WHOLE, judged, splits)]
    return rows + [_composition(task, [j for j in judged if task in j[0].tasks], splits) for task in tasks]


def _composition(
    name: str, judged: list[tuple[CaseRecord, dict[str, Any]]], splits: Mapping[str, set[Split]]
) -> dict[str, Any]:
    records = [record for record, _ in judged]
    train = [record for record in records if record.role == "train"]
    local = [record for record in records if record.role == "local"]
    sites: dict[str, set[str]] = {}
    for record in records:
        sites.setdefault(record.patient, set()).add(record.site)
    seen = {scanner_of(record) for record in train} - {"unknown"}
    at = Counter(record.site for record in train)
    roles = {record.patient: record for record in records}
    return {
        "part": name,
        "cases": len(records),
        "train_patients": len({record.patient for record in train}),
        "local_patients": len({record.patient for record in local}),
        "train_sites": len(at),
        "train_vendors": len({record.scanner.manufacturer.upper() for record in train} - {""}),
        "train_scanners": len(seen),
        "train_kernels": len({record.protocol.kernel for record in train} - {""}),
        "largest_site_share": max(at.values()) / len(train) if train else None,
        "local_scanner_seen_share": sum(scanner_of(r) in seen for r in local) / len(local) if local else None,
        "copies": _copies(
            [record.source_sha256 for record in records], [row.get("voxels_sha256") for _, row in judged]
        ),
        "patients_in_two_roles": len({r.patient for r in train} & {r.patient for r in local}),
        "patients_at_two_sites": sum(len(places) > 1 for places in sites.values()),
        "patients_in_two_splits": sum(
            len(splits.get(patient, ())) > 1 or not _fits(record, splits.get(patient, set()))
            for patient, record in roles.items()
        ),
    }


def _copies(sources: list[str], stored: list[str | None]) -> int:
    twice, again = Counter(sources), Counter(stored)
    return sum(twice[s] > 1 or again[v] > 1 for s, v in zip(sources, stored, strict=True))
