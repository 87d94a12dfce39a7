"""PET to SUVbw, by what the header says and nothing else.

SUVbw follows QIBA's vendor-neutral pseudo-code (FDG-PET/CT profile): activity concentration times body weight,
divided by the injected activity decayed to the moment that the images are corrected to. Counts become activity or SUV
by Philips' private factors, or activity by the dose calibration factor where that has not been applied yet. Where an
input is missing or implausible the conversion is refused with the reason, and activity stays in Bq/ml; counts without
a factor are refused as a whole.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from mira.cases import PetDose
from mira.dicom import headers as h
from mira.dicom.nuclides import HALF_LIVES_S, NUCLIDE_CODES, nuclide
from mira.dicom.pet_times import LONGEST_HALF_LIVES, NoSuv, decay_factor_error, seconds_to_reference
from mira.dicom.reasons import Reason, Refused
from mira.tasks import Unit

DECAYED = "injected_dose_bq * 2^(-seconds_injection_to_reference / half_life_s)"
FORMULAS = {
    "START": f"SUVbw = BQML * 1000 * weight_kg / ({DECAYED})",
    "NONE": f"SUVbw = BQML * 1000 * weight_kg / ({DECAYED})",
    "ADMIN": "SUVbw = BQML * 1000 * weight_kg / injected_dose_bq",
}
COUNTS = ("CNTS", "CPS", "PROPCNTS", "PROPCPS")
RATES = ("CPS", "PROPCPS")
PHILIPS = "Philips PET Private Group"
WEIGHT_KG = (0.5, 500.0)
DOSE_BQ = (1e5, 1e11)
SAME_SUV = 0.05
"""Largest difference between two ways to one SUV that still means the same."""
SAME_DECAY = 0.01
"""The same for the moment of decay correction."""


@dataclass(frozen=True)
class PetScale:
    """How the rescaled values of a PET series become its voxels.

    Attributes:
        source: the DICOM unit of the rescaled values.
        unit: unit of the voxels: SUVbw, or BQML where that cannot be.
        factor: `unit` per unit of the rescaled values.
        formula: how the factor is used; the names are those of `inputs`.
        inputs: the numbers that went in.
        dose: inputs of the conversion from activity; None where they are not all there.
        refusal: why the voxels are not SUVbw; "" when they are.
        warnings: codes of what was odd.
    """

    source: str
    unit: Unit
    factor: float
    formula: str
    inputs: dict[str, float] = field(default_factory=dict)
    dose: PetDose | None = None
    refusal: str = ""
    warnings: list[str] = field(default_factory=list)


def pet_scale(slices: list[Dataset]) -> PetScale:
    """Work out how the rescaled values of a PET series become SUVbw.

    Args:
        slices: headers of the slices.

    Raises:
        Refused: when they lead neither to SUVbw nor to activity.
    """
    units = {h.text(header, "Units").upper() for header in slices}
    unit = units.pop()
    if units or unit not in ("GML", "BQML", *COUNTS):
        raise Refused(Reason.NO_PET_UNIT)
    if unit == "GML":
        return _from_suv(slices)
    if unit == "BQML":
        return _from_activity(slices, unit, {}, [])
    return _from_counts(slices, unit)


def _from_suv(slices: list[Dataset]) -> PetScale:
    kinds = {h.text(header, "SUVType").upper() for header in slices}
    if not kinds <= {"", "BW"}:
        raise Refused(Reason.NOT_SUVBW)
    warnings = [] if kinds == {"BW"} else ["suv-type-missing"]
    return PetScale("GML", Unit.SUVBW, 1.0, "SUVbw = GML", warnings=warnings)


def _from_counts(slices: list[Dataset], unit: str) -> PetScale:
    """Counts by Philips' factors to SUV (7053,xx00) or activity (7053,xx09), or by the dose calibration factor."""
    to_suv = _one(h.private(header, 0x7053, PHILIPS, 0x00) for header in slices)
    to_activity = _one(h.private(header, 0x7053, PHILIPS, 0x09) for header in slices)
    calibration = _one(h.text(header, "DoseCalibrationFactor") for header in slices)
    scale = None
    if to_activity is not None:
        scale = _from_activity(slices, unit, {"philips_activity_factor": to_activity}, [])
    if to_suv is not None:
        return _by_suv_factor(slices, unit, to_suv, scale)
    if scale is not None:
        return scale
    if unit in RATES and calibration is not None and "DCAL" not in h.values(slices[0], "CorrectedImage"):
        warnings = ["dose-calibration-factor-applied"]
        return _from_activity(slices, unit, {"dose_calibration_factor": calibration}, warnings)
    raise Refused(Reason.PET_COUNTS)


def _by_suv_factor(slices: list[Dataset], unit: str, factor: float, by_activity: PetScale | None) -> PetScale:
    corrections = set(h.values(slices[0], "CorrectedImage"))
    if corrections and not {"ATTN", "DECY"} <= corrections:
        raise Refused(Reason.PET_COUNTS, "it is not corrected for attenuation and decay")
    warnings = [] if corrections else ["corrected-image-missing"]
    if by_activity is None or by_activity.unit is not Unit.SUVBW:
        warnings.append("suv-factor-not-checked")
    elif abs(by_activity.factor / factor - 1) > SAME_SUV:
        raise Refused(Reason.PET_COUNTS, "its factors to SUV and to activity contradict each other")
    formula, inputs = f"SUVbw = {unit} * philips_suv_factor", {"philips_suv_factor": factor}
    dose = by_activity.dose if by_activity is not None else None
    return PetScale(unit, Unit.SUVBW, factor, formula, inputs, dose, warnings=warnings)


def _one(values: Iterable[str]) -> float | None:
    """The one positive number that all slices state; None when there is none or they differ."""
    found = set(values)
    try:
        number = float(found.pop())
    except ValueError:
        return None
    return number if not found and math.isfinite(number) and number > 0 else None


def _from_activity(slices: list[Dataset], unit: str, scales: dict[str, float], warnings: list[str]) -> PetScale:
    """SUVbw from activity, or from what becomes activity by a factor; activity itself where SUVbw cannot be had."""
    scale = math.prod(scales.values(), start=1.0)
    activity = " * ".join([unit, *scales])
    try:
        dose, found = _dose(slices)
    except NoSuv as error:
        formula = f"BQML = {activity}" if scales else ""
        return PetScale(unit, Unit.BQML, scale, formula, scales, None, f"not in SUVbw: {error}", warnings)
    inputs = scales | {
        "weight_kg": dose.weight_kg,
        "injected_dose_bq": dose.injected_dose_bq,
        "half_life_s": dose.half_life_s,
        "seconds_injection_to_reference": dose.seconds_injection_to_reference,
        "decayed_dose_bq": dose.decayed_dose_bq,
    }
    formula = dose.formula.replace("BQML", activity)
    return PetScale(unit, Unit.SUVBW, scale * dose.factor, formula, inputs, dose, warnings=[*warnings, *found])


def _dose(slices: list[Dataset]) -> tuple[PetDose, list[str]]:
    """(inputs and result of the conversion from activity to SUVbw, warnings)."""
    first, warnings = slices[0], list[str]()
    corrections = set(h.values(first, "CorrectedImage"))
    if not corrections:
        warnings.append("corrected-image-missing")
    elif "ATTN" not in corrections:
        raise NoSuv("the images are not corrected for attenuation")
    mode = h.text(first, "DecayCorrection").upper()
    if mode not in FORMULAS:
        raise NoSuv("Decay Correction does not say START, ADMIN or NONE")
    if corrections and (mode != "NONE") != ("DECY" in corrections):
        raise NoSuv("Decay Correction and Corrected Image contradict each other")
    weight = h.number(first, "PatientWeight")
    if weight is None or not WEIGHT_KG[0] <= weight <= WEIGHT_KG[1]:
        raise NoSuv("the patient's weight is missing, zero or implausible")
    drugs = h.items(first, "RadiopharmaceuticalInformationSequence")
    if len(drugs) != 1:
        raise NoSuv("there is not exactly one radiopharmaceutical in the header")
    dose = h.number(drugs[0], "RadionuclideTotalDose")
    if dose is not None and 1 <= dose < DOSE_BQ[0]:
        raise NoSuv("the injected dose is too small for Bq; it may be in MBq, but the header does not say so")
    if dose is None or not DOSE_BQ[0] <= dose <= DOSE_BQ[1]:
        raise NoSuv("the injected dose is missing, zero or not in Bq")
    half_life = _half_life(drugs[0])
    elapsed = 0.0 if mode == "ADMIN" else seconds_to_reference(slices, drugs[0], mode, half_life)
    if not 0 <= elapsed <= LONGEST_HALF_LIVES * half_life:
        raise NoSuv("the time from injection to scan is negative or longer than ten half-lives")
    if mode == "START" and decay_factor_error(slices, half_life) > SAME_DECAY:
        warnings.append("decay-factor-disagrees")
    decayed = dose * 2.0 ** (-elapsed / half_life)
    record = PetDose(
        weight_kg=weight,
        injected_dose_bq=dose,
        half_life_s=half_life,
        decay_correction=mode,
        seconds_injection_to_reference=elapsed,
        decayed_dose_bq=decayed,
        factor=1000.0 * weight / decayed,
        formula=FORMULAS[mode],
    )
    return record, warnings


def _half_life(drug: Dataset) -> float:
    """Half-life in seconds: the tag, checked against the radionuclide, or the radionuclide's own."""
    known = None
    for item in h.items(drug, "RadionuclideCodeSequence"):
        known = NUCLIDE_CODES.get(h.text(item, "CodeValue")) or nuclide(h.text(item, "CodeMeaning"))
    known = known or nuclide(h.text(drug, "Radiopharmaceutical"))
    expected = HALF_LIVES_S.get(known or "")
    stated = h.number(drug, "RadionuclideHalfLife")
    if not stated or stated < 0:
        if expected is None:
            raise NoSuv("neither the half-life nor a known radionuclide is in the header")
        return expected
    if expected is not None and abs(stated / expected - 1) > 0.03:
        raise NoSuv("the half-life in the header does not belong to the radionuclide")
    return stated
