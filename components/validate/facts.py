"""Facts about cases that expectations may speak of: booleans and numbers only, never an identifier of a person.

Great Expectations prints unexpected values into its results; whatever it never sees it cannot leak.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mira.cases import CaseRecord, read_volume
from mira.errors import MiraError
from mira.tasks import Modality, Unit, task_of

CASE_FACTS: dict[str, str] = {
    "readable": "the volume could be read from disk",
    "geometry_matches": "shape and spacing of the stored volume equal those of its record",
    "voxels_finite": "no voxel is NaN or infinite",
    "not_blank": "the voxels are not all equal",
    "spacing_positive": "all three spacings are above zero",
    "spacing_plausible": "all three spacings are between 0.1 and 20 mm",
    "smallest_side": "smaller of rows and columns, in voxels",
    "slices": "number of slices",
    "unit_fits": "the unit is the one that the task of the modality needs (HU, SUVbw, MR a.u.)",
    "has_task": "ingest found the physics known well enough for at least one task",
    "has_patient": "the case carries a patient pseudonym",
    "free_of_phi": "no text of the record looks like a date, a person's name, an address or an instance UID",
    "content_new": "no other case, of this or another site, was made from the same source pixels",
    "patient_not_local": "the patient of a training case is not also a patient of a local site",
    "warnings": "number of oddities that ingest could handle",
    "has_thickness": "the slice thickness is known",
    "noise": "noise estimated from the second differences of the central slices, in the unit of the volume",
    "minimum": "smallest voxel value",
    "maximum": "largest voxel value",
    "hu_range_plausible": "tissue near 0 HU, and air or fat below it, are where a rescaled CT has them",
    "has_kernel": "the reconstruction kernel is known",
    "has_exposure": "tube current, exposure or CTDIvol is known",
    "suv_dose_known": "the inputs of the SUV conversion were kept",
    "suv_nonnegative": "no SUV is below -0.1",
    "suv_range_plausible": "the 99.9th percentile of SUV is between 0.5 and 200",
    "mr_scale_positive": "the robust intensity scale is known and above zero",
    "has_sequence": "scanning sequence or repetition and echo time are known",
}
SITE_FACTS: dict[str, str] = {
    "cases": "number of cases that ingest delivered",
    "accepted": "number of cases that no `must` expectation refused",
    "enough_cases": "at least the declared minimum of cases was accepted",
    "accepted_share": "accepted cases over delivered cases; 0 when nothing was delivered",
    "one_role": "all cases of the site carry the role that sites.yaml gives it",
}

_PERSON = re.compile(r"\w\^\w")  # a DICOM person name; nothing else in a record carries a caret
_ADDRESS = re.compile(r"\S+@\S+\.\w+|(?:^|\s)(?:/|[A-Za-z]:\\)\S+[/\\]")
_UID = re.compile(r"\b\d+(?:\.\d+){7,}\b")
_DATE = re.compile(r"\b(?:19|20)\d\d[-./]?(?:0[1-9]|1[0-2])[-./]?(?:0[1-9]|[12]\d|3[01])\b")
_STANDARD_UID = "1.2.840.10008."


def looks_like_phi(record: CaseRecord) -> bool:
    """Whether any text of a record looks like a name, a date, an address or path, or a UID of an instance.

    UIDs of the DICOM standard itself (SOP class, transfer syntax) and build dates in the scanner's software
    version are no PHI and pass.
    """
    texts = dict(_texts("", record.model_dump(mode="json")))
    return any(
        _PERSON.search(text)
        or _ADDRESS.search(text)
        or (_UID.search(text) and not text.startswith(_STANDARD_UID))
        or (_DATE.search(text) and key not in {"scanner.software", "software"})
        for key, text in texts.items()
    )


def _texts(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield prefix, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(f"{prefix}.{key}".lstrip("."), item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(prefix, item)


def noise_level(voxels: NDArray[np.float32]) -> float:
    """Noise standard deviation of slices by the median absolute response to a second-difference mask.

    The mask [[1,-2,1],[-2,4,-2],[1,-2,1]] removes constant and linear structure and has norm 6 for white noise
    (Immerkaer, Computer Vision and Image Understanding 64:300, 1996); the median makes it robust to edges.

    Args:
        voxels: [slices, rows, columns] in any unit.

    Returns:
        The level in the same unit; 0 for slices under 3 x 3.
    """
    if min(voxels.shape[1:]) < 3:
        return 0.0
    rows = voxels[:, :-2] - 2 * voxels[:, 1:-1] + voxels[:, 2:]
    response = rows[..., :-2] - 2 * rows[..., 1:-1] + rows[..., 2:]
    inside = np.abs(response[response != 0])  # padding and clipped air respond with exactly zero
    return float(1.4826 * np.median(inside) / 6) if inside.size else 0.0


def case_facts(folder: Path, record: CaseRecord) -> dict[str, Any]:
    """All facts of one case but those that need the other cases, which `relate` adds."""
    spacing = record.spacing_mm
    facts: dict[str, Any] = {
        "case_id": record.case_id,
        "site": record.site,
        "modality": record.modality.value,
        "role": record.role,
        "spacing_positive": min(spacing) > 0,
        "spacing_plausible": min(spacing) >= 0.1 and max(spacing) <= 20,
        "smallest_side": min(record.shape[1:]),
        "slices": record.shape[0],
        "unit_fits": record.unit is task_of(record.modality).unit,
        "has_task": bool(record.tasks),
        "has_patient": bool(record.patient),
        "free_of_phi": not looks_like_phi(record),
        "warnings": len(record.warnings),
        "has_thickness": record.protocol.slice_thickness_mm is not None,
        "has_kernel": bool(record.protocol.kernel),
        "has_exposure": any(
            value is not None
            for value in (
                record.protocol.tube_current_ma,
                record.protocol.exposure_mas,
                record.protocol.ctdi_vol_mgy,
            )
        ),
        "suv_dose_known": record.pet_dose is not None,
        "mr_scale_positive": bool(record.mr_scale and record.mr_scale > 0),
        "has_sequence": bool(record.protocol.scanning_sequence)
        or (record.protocol.repetition_time_ms is not None and record.protocol.echo_time_ms is not None),
    }
    try:
        volume = read_volume(folder)
    except (MiraError, OSError, ValueError):  # a truncated file shows as any of these
        return facts | _voxel_facts(None, record)
    same = volume.voxels.shape == tuple(record.shape) and np.allclose(volume.spacing, spacing, rtol=1e-3, atol=1e-4)
    return facts | _voxel_facts(np.ascontiguousarray(volume.voxels), record) | {"geometry_matches": bool(same)}


def _voxel_facts(voxels: NDArray[np.float32] | None, record: CaseRecord) -> dict[str, Any]:
    if voxels is None or voxels.size == 0:
        names = ("readable", "geometry_matches", "voxels_finite", "not_blank", "hu_range_plausible")
        return dict.fromkeys((*names, "suv_nonnegative", "suv_range_plausible"), False)
    low, high = float(voxels.min()), float(voxels.max())
    finite = bool(np.isfinite(low) and np.isfinite(high))
    facts: dict[str, Any] = {
        "readable": True,
        "voxels_finite": finite,
        "not_blank": finite and high > low,
        "minimum": low if finite else None,
        "maximum": high if finite else None,
        "hu_range_plausible": False,
        "suv_nonnegative": False,
        "suv_range_plausible": False,
    }
    if not finite:
        return facts
    middle = len(voxels) // 2
    facts["noise"] = noise_level(voxels[max(0, middle - 4) : middle + 4])
    sample = voxels.reshape(-1)[:: max(1, voxels.size // 400_000)]
    if record.modality is Modality.CT:
        facts["hu_range_plausible"] = record.unit is Unit.HU and _hu_plausible(sample)
    if record.modality is Modality.PET:
        peak = float(np.quantile(sample, 0.999))
        facts["suv_nonnegative"] = low >= -0.1
        facts["suv_range_plausible"] = 0.5 <= peak <= 200
    return facts


def _hu_plausible(sample: NDArray[np.float32]) -> bool:
    """Whether soft tissue, and air or fat, lie where they must in HU; padding below -1500 HU is ignored.

    A CT that lost its rescale intercept has its air near 0 and its tissue near 1000, and nothing below -30.
    """
    real = sample[sample > -1500]
    if real.size < 100:
        return False
    below_water = float(np.mean(real < -30))
    tissue = float(np.mean((real > -200) & (real < 300)))
    return below_water >= 0.005 and tissue >= 0.02 and float(np.quantile(real, 0.99)) < 4000


def relate(rows: list[dict[str, Any]], records: list[CaseRecord]) -> None:
    """Add the facts that need all cases: `content_new` and `patient_not_local`.

    Of several cases with the same source pixels one stays, a local one before a training one; a patient who is
    known to a local site leaves the training sites, so that the local set stays unseen.
    """
    local_patients = {record.patient for record in records if record.role == "local" and record.patient}
    order = sorted(range(len(records)), key=lambda i: (records[i].role != "local", records[i].site, records[i].case_id))
    seen: set[str] = set()
    for index in order:
        record = records[index]
        rows[index]["content_new"] = record.source_sha256 not in seen
        rows[index]["patient_not_local"] = record.role == "local" or record.patient not in local_patients
        seen.add(record.source_sha256)


def site_facts(
    site: str, role: str, records: Iterable[CaseRecord], accepted: set[str], minimum_cases: int
) -> dict[str, Any]:
    """The facts of one site, after its cases were judged."""
    own = [record for record in records if record.site == site]
    count = sum(record.case_id in accepted for record in own)
    return {
        "site": site,
        "cases": len(own),
        "accepted": count,
        "enough_cases": count >= minimum_cases,
        "accepted_share": count / len(own) if own else 0.0,
        "one_role": all(record.role == role for record in own),
    }
