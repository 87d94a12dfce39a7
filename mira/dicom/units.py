"""Physical units: Hounsfield units, SUVbw from PET activity, and the robust scale of MR.

SUVbw follows QIBA's vendor-neutral pseudo-code (FDG-PET/CT profile): activity concentration times body weight,
divided by the injected activity decayed to the moment that the images are corrected to. Nothing is guessed:
where an input is missing or implausible the conversion is refused with the reason, and activity stays in Bq/ml.
"""

import math
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mira.cases import PetDose
from mira.dicom import headers as h
from mira.dicom.reasons import Reason, Refused

HALF_LIVES_S = {
    "C11": 1221.8, "N13": 597.9, "O15": 122.2, "F18": 6586.2, "CU64": 45723.6, "GA68": 4062.6,
    "RB82": 76.4, "Y86": 53064.0, "ZR89": 282276.0, "I124": 360806.4,
}  # fmt: skip
"""Physical half-lives in seconds (NNDC NuDat, rounded); the DICOM tag goes first where it is present."""

NUCLIDE_CODES = {
    "40565003": "C11", "C-105A1": "C11", "21576001": "N13", "C-107A1": "N13", "129504001": "O15", "C-B1038": "O15",
    "77004003": "F18", "C-111A1": "F18", "3932008": "CU64", "C-127A2": "CU64", "35337001": "GA68", "C-131A3": "GA68",
    "79197006": "RB82", "C-159A2": "RB82", "10738001": "Y86", "63360001": "ZR89", "C-168A4": "ZR89",
    "40937006": "I124", "C-114A5": "I124",
}  # fmt: skip
"""SNOMED CT and SRT codes of DICOM context group 4020, PET radionuclides."""

FORMULAS = {
    "START": "SUVbw = BQML * 1000 * weight_kg / (injected_dose_bq * 2^(-seconds_injection_to_reference / half_life_s))",
    "ADMIN": "SUVbw = BQML * 1000 * weight_kg / injected_dose_bq",
}
FORMULAS["NONE"] = FORMULAS["START"]

WEIGHT_KG = (0.5, 500.0)
DOSE_BQ = (1e5, 1e11)
LONGEST_HALF_LIVES = 10.0


@dataclass(frozen=True)
class PetScale:
    """How the rescaled values of a PET series become SUVbw.

    Attributes:
        factor: SUVbw per unit of the rescaled values; 1.0 when they are SUVbw already or cannot be.
        dose: inputs of the conversion; None when the scanner or another program had made it already.
        refusal: why the values stay in BQML; "" when they are SUVbw.
        warnings: codes of what was odd.
    """

    factor: float = 1.0
    dose: PetDose | None = None
    refusal: str = ""
    warnings: list[str] = field(default_factory=list)


class _NoSuv(Exception):
    """A missing or implausible input of the conversion; the text says which."""


def hounsfield_check(header: Dataset) -> None:
    """Make sure that slope and intercept of a CT slice lead to Hounsfield units.

    Raises:
        Refused: when the rescale is missing or the type of its result is something else.
    """
    if h.number(header, "RescaleSlope") in (None, 0.0) or h.number(header, "RescaleIntercept") is None:
        raise Refused(Reason.NO_RESCALE)
    kind = h.text(header, "RescaleType").upper()
    if kind not in ("", "HU", "US"):
        raise Refused(Reason.NOT_HU)


def pet_scale(slices: list[Dataset]) -> PetScale:
    """Work out how the rescaled values of a PET series become SUVbw.

    Args:
        slices: headers of the slices.

    Raises:
        Refused: when even the activity is unknown (no unit, or one that is neither BQML nor GML).
    """
    units = {h.text(header, "Units").upper() for header in slices}
    if units == {"GML"}:
        kinds = {h.text(header, "SUVType").upper() for header in slices}
        if kinds <= {"", "BW"}:
            return PetScale(warnings=[] if kinds == {"BW"} else ["suv-type-missing"])
        raise Refused(Reason.NOT_SUVBW)
    if units != {"BQML"}:
        raise Refused(Reason.NO_PET_UNIT)
    try:
        return _from_activity(slices)
    except _NoSuv as error:
        return PetScale(refusal=f"not in SUVbw: {error}")


def _from_activity(slices: list[Dataset]) -> PetScale:
    first, warnings = slices[0], list[str]()
    corrections = set(h.values(first, "CorrectedImage"))
    if not corrections:
        warnings.append("corrected-image-missing")
    elif "ATTN" not in corrections:
        raise _NoSuv("the images are not corrected for attenuation")
    mode = h.text(first, "DecayCorrection").upper()
    if mode not in FORMULAS:
        raise _NoSuv("Decay Correction does not say START, ADMIN or NONE")
    if mode != "NONE" and corrections and "DECY" not in corrections:
        raise _NoSuv("Decay Correction and Corrected Image contradict each other")
    weight = h.number(first, "PatientWeight")
    if weight is None or not WEIGHT_KG[0] <= weight <= WEIGHT_KG[1]:
        raise _NoSuv("the patient's weight is missing, zero or implausible")
    drugs = h.items(first, "RadiopharmaceuticalInformationSequence")
    if len(drugs) != 1:
        raise _NoSuv("there is not exactly one radiopharmaceutical in the header")
    dose = h.number(drugs[0], "RadionuclideTotalDose")
    if dose is None or not DOSE_BQ[0] <= dose <= DOSE_BQ[1]:
        raise _NoSuv("the injected dose is missing, zero or not in Bq")
    half_life = _half_life(drugs[0])
    elapsed = 0.0 if mode == "ADMIN" else _elapsed(slices, drugs[0], mode, half_life)
    if not 0 <= elapsed <= LONGEST_HALF_LIVES * half_life:
        raise _NoSuv("the time from injection to scan is negative or longer than ten half-lives")
    decayed = dose * 2.0 ** (-elapsed / half_life)
    factor = 1000.0 * weight / decayed
    record = PetDose(
        weight_kg=weight,
        injected_dose_bq=dose,
        half_life_s=half_life,
        decay_correction=mode,
        seconds_injection_to_reference=elapsed,
        decayed_dose_bq=decayed,
        factor=factor,
        formula=FORMULAS[mode],
    )
    return PetScale(factor, record, warnings=warnings)


def _half_life(drug: Dataset) -> float:
    """Half-life in seconds: the tag, checked against the radionuclide, or the radionuclide's own."""
    known = None
    for item in h.items(drug, "RadionuclideCodeSequence"):
        known = NUCLIDE_CODES.get(h.text(item, "CodeValue")) or _nuclide(h.text(item, "CodeMeaning"))
    known = known or _nuclide(h.text(drug, "Radiopharmaceutical"))
    expected = HALF_LIVES_S.get(known or "")
    stated = h.number(drug, "RadionuclideHalfLife")
    if not stated or stated < 0:
        if expected is None:
            raise _NoSuv("neither the half-life nor a known radionuclide is in the header")
        return expected
    if expected is not None and abs(stated / expected - 1) > 0.03:
        raise _NoSuv("the half-life in the header does not belong to the radionuclide")
    return stated


def _nuclide(words: str) -> str | None:
    """`^18^Fluorine`, `F-18`, `18F-FDG` as `F18`."""
    names = {"FLUORINE": "F", "CARBON": "C", "GALLIUM": "GA", "COPPER": "CU", "ZIRCONIUM": "ZR", "IODINE": "I"}
    names |= {"NITROGEN": "N", "OXYGEN": "O", "RUBIDIUM": "RB", "YTTRIUM": "Y"}
    symbols = "|".join([*names, *(re.match(r"[A-Z]+", key)[0] for key in HALF_LIVES_S)])  # type: ignore[index]
    upper = words.upper()
    match = re.search(rf"\b({symbols})[-^ ]*(\d+)\b", upper)
    pair = (match[1], match[2]) if match else None
    if pair is None and (match := re.search(rf"(?<!\d)(\d+)[-^ ]*({symbols})(?![A-Z])", upper)):
        pair = (match[2], match[1])
    key = f"{names.get(pair[0], pair[0])}{pair[1]}" if pair else ""
    return key if key in HALF_LIVES_S else None


def _elapsed(slices: list[Dataset], drug: Dataset, mode: str, half_life: float) -> float:
    """Seconds from injection to the moment that the images are decay-corrected to."""
    reference = _scan_start(slices, half_life) if mode == "START" else _frame_time(slices, half_life)
    exact = h.date_time(h.text(drug, "RadiopharmaceuticalStartDateTime"))
    if exact is not None:
        return (reference - exact).total_seconds()
    clock = h.seconds_of_day(h.text(drug, "RadiopharmaceuticalStartTime"))
    if clock is None:
        raise _NoSuv("the time of injection is missing")
    midnight = datetime(reference.year, reference.month, reference.day)
    elapsed = (reference - midnight).total_seconds() - clock
    # only the time of day is known: later than the scan means the evening before, across midnight
    return elapsed if elapsed >= 0 else elapsed + timedelta(days=1).total_seconds()


def _scan_start(slices: list[Dataset], half_life: float) -> datetime:
    """Start of the scan: series time unless that is later than the first acquisition, as in a reprocessed series."""
    acquired = _acquisitions(slices)
    if not acquired:
        raise _NoSuv("the acquisition time is missing")
    earliest, header = acquired[0]
    series = _moment(slices[0], "Series")
    if series is not None and series <= earliest:
        return series
    private = slices[0].get((0x0009, 0x100D))  # GE: scan date and time
    if private is not None and h.text(slices[0], "Manufacturer").upper().startswith("GE"):
        scanned = h.date_time(str(private.value).strip())
        if scanned is not None:
            return scanned
    reference_ms = h.number(header, "FrameReferenceTime")
    duration_ms = h.number(header, "ActualFrameDuration")
    if reference_ms and duration_ms:
        return earliest - timedelta(seconds=reference_ms / 1000 - _average_rate_time(duration_ms / 1000, half_life))
    return earliest


def _frame_time(slices: list[Dataset], half_life: float) -> datetime:
    """For images that are not decay-corrected: the moment of the frame's average count rate, one for all slices."""
    acquired = _acquisitions(slices)
    durations = {h.number(header, "ActualFrameDuration") for header in slices}
    if len(acquired) != len(slices) or len({moment for moment, _ in acquired}) != 1 or len(durations) != 1:
        raise _NoSuv("the images are not decay-corrected and were not all acquired in one frame")
    duration_ms = durations.pop()
    if not duration_ms:
        raise _NoSuv("the images are not decay-corrected and the frame duration is missing")
    return acquired[0][0] + timedelta(seconds=_average_rate_time(duration_ms / 1000, half_life))


def _average_rate_time(duration_s: float, half_life_s: float) -> float:
    """Seconds into a frame at which the decaying count rate equals its average over the frame."""
    decay = math.log(2) / half_life_s * duration_s
    return duration_s / decay * math.log(decay / -math.expm1(-decay))


def _acquisitions(slices: list[Dataset]) -> list[tuple[datetime, Dataset]]:
    found = [(_moment(header, "Acquisition"), header) for header in slices]
    return sorted([(moment, header) for moment, header in found if moment is not None], key=lambda pair: pair[0])


def _moment(header: Dataset, which: str) -> datetime | None:
    """Date and time of the series or acquisition; a date that is invalid is taken from the others."""
    for date in (f"{which}Date", "SeriesDate", "AcquisitionDate", "StudyDate"):
        moment = h.moment(h.text(header, date), h.text(header, f"{which}Time"))
        if moment is not None:
            return moment
    return h.date_time(h.text(header, f"{which}DateTime"))


def mr_scale(voxels: NDArray[np.float32]) -> float:
    """Robust intensity scale of an MR volume: the 99.5th percentile of its foreground.

    Foreground is every voxel above a tenth of the volume's 99th percentile: enough to leave air out on any coil
    and sequence, with no random part and no threshold search.

    Args:
        voxels: [slices, rows, columns], arbitrary units.

    Raises:
        Refused: when no voxel is above zero.
    """
    bright = float(np.percentile(voxels, 99))
    threshold = 0.1 * bright if bright > 0 else 0.0
    foreground = voxels[voxels > threshold]
    if foreground.size == 0:
        raise Refused(Reason.EMPTY_IMAGE)
    return float(np.percentile(foreground, 99.5))
