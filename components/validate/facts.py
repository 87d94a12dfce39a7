"""Facts about cases that expectations may speak of: booleans and numbers only, never an identifier of a person.

Great Expectations prints unexpected values into its results; whatever it never sees it cannot leak.
"""

from pathlib import Path
from typing import Any

import numpy as np

from components.validate.phi import phi_facts
from components.validate.voxels import voxel_facts
from mira.cases import CaseRecord, PetDose, read_volume
from mira.errors import MiraError
from mira.tasks import task_of
from mira.volume import Volume

CASE_FACTS: dict[str, str] = {
    "readable": "the volume could be read from disk",
    "geometry_matches": "shape and spacing of the stored volume equal those of its record",
    "rotation_valid": "the three axes of the stored affine are at right angles",
    "spacing_positive": "all three spacings are above zero",
    "spacing_plausible": "all three spacings are between 0.1 and 20 mm",
    "in_plane_mm": "larger of the distances between rows and between columns, mm",
    "slice_spacing_mm": "distance between slices, mm",
    "thickness_mm": "slice thickness, mm; null when unknown",
    "has_thickness": "the slice thickness is known",
    "spacing_over_thickness": "distance between slices over their thickness; above 1 there are gaps",
    "square_pixels": "rows and columns are equally far apart, to 1 percent",
    "smallest_side": "smaller of rows and columns, in voxels",
    "smallest_extent_mm": "smaller side of a slice, mm",
    "largest_extent_mm": "largest side of the volume, mm",
    "slices": "number of slices",
    "voxels_finite": "no voxel is NaN or infinite",
    "not_blank": "the voxels are not all equal",
    "minimum": "smallest voxel value",
    "maximum": "largest voxel value",
    "noise": "noise estimated from second differences in the body, central slices, in the unit of the volume",
    "noise_share": "that noise over the mean SUV of the body (PET) or the intensity scale (MR); null for CT",
    "unit_fits": "the unit is the one that the task of the modality needs (HU, SUVbw, MR a.u.)",
    "has_task": "ingest found the physics known well enough for at least one task",
    "warnings": "number of oddities that ingest could handle",
    "has_patient": "the case carries a patient pseudonym",
    "no_person_name": "no text of the record looks like a person's name",
    "no_date": "no text of the record looks like a date; build dates of software do not count",
    "no_uid": "no text of the record is a UID, but those of the DICOM standard",
    "no_address": "no text of the record looks like an e-mail address, a URL or a path",
    "no_long_number": "no word from the DICOM header is a number of seven digits or more",
    "no_free_text": "no word from the DICOM header is longer than 64 characters or 8 words",
    "names_pseudonymous": "case, patient, study and series are named by lower-case codes without blanks",
    "no_other_file": "the case's folder holds its record and volumes and nothing else",
    "nifti_header_empty": "the text fields of the stored volumes' headers are empty",
    "content_new": "no other case, of this or another site, was made from the same source pixels",
    "voxels_new": "no other case stores the same voxels, whatever they were made from",
    "patient_not_local": "the patient of a training case is not also a patient of a local site",
    "patient_at_one_site": "the patient is known to one site only",
    "split_kept": "the role fits the split that the patient had in earlier pairs; true where there was none",
    "hu_range_plausible": "tissue near 0 HU, and air or fat below it, are where a rescaled CT has them",
    "air_peak_hu": "most frequent value below -500 HU, without padding; null with under 0.5 % of the voxels there",
    "tissue_peak_hu": "most frequent value from -500 to 2000 HU",
    "has_kernel": "the reconstruction kernel is known",
    "has_exposure": "tube current, exposure or CTDIvol is known",
    "kvp": "tube voltage, kV",
    "exposure_mas": "exposure, mAs",
    "suv_nonnegative": "no SUV is below -0.1",
    "suv_range_plausible": "the 99.9th percentile of SUV is between 0.5 and 200",
    "suv_peak": "99.9th percentile of SUV",
    "suv_body_mean": "mean SUV of the voxels above a tenth of the 99th percentile, that is of the body",
    "suv_dose_known": "the inputs of the SUV conversion were kept",
    "suv_formula_holds": "the stored factor follows from the stored weight, dose, half-life and time, to 0.1 percent",
    "weight_kg": "body weight, kg",
    "dose_mbq": "injected activity, MBq",
    "dose_mbq_per_kg": "injected activity per body weight, MBq/kg",
    "uptake_minutes": "time from injection to the moment of decay correction, minutes; null for ADMIN, which has none",
    "half_life_s": "half-life of the radionuclide, s",
    "has_frame_duration": "the duration of a PET frame is known",
    "mr_scale": "robust intensity scale of an MR volume, a.u.",
    "mr_scale_positive": "the robust intensity scale is known and above zero",
    "peak_over_scale": "largest MR value over the intensity scale",
    "saturated_share": "share of MR voxels that carry the largest value; high after clipping",
    "has_sequence": "scanning sequence or repetition and echo time are known",
    "field_strength_t": "magnetic field strength, T",
    "repetition_time_ms": "repetition time, ms",
    "echo_time_ms": "echo time, ms",
    "conversion_kept": "formula and inputs of the conversion from stored values to the unit were kept",
}


def case_facts(folder: Path, record: CaseRecord) -> dict[str, Any]:
    """All facts of one case but those that need the other cases, which `relations.relate` adds.

    `voxels_sha256` is for `relate` and not an expectation's business.
    """
    facts = {
        "case_id": record.case_id,
        "site": record.site,
        "modality": record.modality.value,
        "role": record.role,
        "unit_fits": record.unit is task_of(record.modality).unit,
        "has_task": bool(record.tasks),
        "has_patient": bool(record.patient),
        "warnings": len(record.warnings),
        "conversion_kept": record.conversion is not None or record.pet_dose is not None,
        "mr_scale": record.mr_scale,
        "mr_scale_positive": bool(record.mr_scale and record.mr_scale > 0),
        **_geometry(record),
        **_protocol(record),
        **_suv(record.pet_dose),
        **phi_facts(record, folder),
    }
    try:
        volume = read_volume(folder)
    except (MiraError, OSError, ValueError):  # a truncated file shows as any of these
        return facts | voxel_facts(None, record)
    stored = {"geometry_matches": _matches(volume, record), "rotation_valid": _right_angles(volume)}
    return facts | voxel_facts(np.ascontiguousarray(volume.voxels), record) | stored


def _geometry(record: CaseRecord) -> dict[str, Any]:
    spacing, thickness = record.spacing_mm, record.protocol.slice_thickness_mm
    extents = [count * step for count, step in zip(record.shape, spacing, strict=True)]
    return {
        "spacing_positive": min(spacing) > 0,
        "spacing_plausible": min(spacing) >= 0.1 and max(spacing) <= 20,
        "in_plane_mm": max(spacing[1:]),
        "slice_spacing_mm": spacing[0],
        "thickness_mm": thickness,
        "has_thickness": thickness is not None,
        "spacing_over_thickness": spacing[0] / thickness if thickness and record.shape[0] > 1 else None,
        "square_pixels": bool(np.isclose(spacing[1], spacing[2], rtol=0.01)),
        "smallest_side": min(record.shape[1:]),
        "smallest_extent_mm": min(extents[1:]),
        "largest_extent_mm": max(extents),
        "slices": record.shape[0],
    }


def _protocol(record: CaseRecord) -> dict[str, Any]:
    protocol = record.protocol
    dose = (protocol.tube_current_ma, protocol.exposure_mas, protocol.ctdi_vol_mgy)
    times = (protocol.repetition_time_ms, protocol.echo_time_ms)
    return {
        "has_kernel": bool(protocol.kernel),
        "has_exposure": any(value is not None for value in dose),
        "kvp": protocol.kvp,
        "exposure_mas": protocol.exposure_mas,
        "has_frame_duration": protocol.frame_duration_ms is not None,
        "has_sequence": bool(protocol.scanning_sequence) or None not in times,
        "field_strength_t": record.scanner.field_strength_t,
        "repetition_time_ms": protocol.repetition_time_ms,
        "echo_time_ms": protocol.echo_time_ms,
    }


def _suv(dose: PetDose | None) -> dict[str, Any]:
    """Inputs of the SUV conversion, and whether its result follows from them.

    SUVbw = BQML * weight_g / decayed dose, decayed dose = injected dose * 2^(-time / half-life), by the Quantitative
    Imaging Biomarkers Alliance's vendor-neutral pseudo-code; no time passes for decay correction to administration.
    """
    if dose is None or dose.half_life_s <= 0 or dose.weight_kg <= 0:
        return {"suv_dose_known": dose is not None, "suv_formula_holds": None if dose is None else False}
    decayed = dose.injected_dose_bq * 2.0 ** (-dose.seconds_injection_to_reference / dose.half_life_s)
    follows = np.isclose(dose.decayed_dose_bq, decayed, rtol=1e-3)
    follows &= np.isclose(dose.factor, 1000 * dose.weight_kg / decayed, rtol=1e-3)
    return {
        "suv_dose_known": True,
        "suv_formula_holds": bool(follows),
        "weight_kg": dose.weight_kg,
        "dose_mbq": dose.injected_dose_bq / 1e6,
        "dose_mbq_per_kg": dose.injected_dose_bq / 1e6 / dose.weight_kg,
        "uptake_minutes": None if dose.decay_correction == "ADMIN" else dose.seconds_injection_to_reference / 60,
        "half_life_s": dose.half_life_s,
    }


def _matches(volume: Volume, record: CaseRecord) -> bool:
    same = volume.voxels.shape == tuple(record.shape)
    return bool(same and np.allclose(volume.spacing, record.spacing_mm, rtol=1e-3, atol=1e-4))


def _right_angles(volume: Volume) -> bool:
    """Whether the axes are orthogonal to 0.1 degrees; a sheared volume was a tilted gantry that nobody undid."""
    lengths = np.linalg.norm(volume.affine[:3, :3], axis=0)
    if not (np.isfinite(lengths).all() and lengths.min() > 0):
        return False
    axes = volume.affine[:3, :3] / lengths
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < np.sin(np.radians(0.1)))
