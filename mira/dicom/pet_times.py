"""When a PET was injected, scanned and decay-corrected to: only seconds between these moments leave this module."""

import math
import re
from datetime import datetime, timedelta

from pydicom.dataset import Dataset

from mira.dicom import headers as h

DAY, HALF_DAY = 86400.0, 43200.0
SAME_MOMENT_S = 60.0
LONGEST_HALF_LIVES = 10.0
"""No scan is made longer after the injection than this."""
ZONE = re.compile(r"[+-]\d{4}$")


class NoSuv(Exception):
    """A missing or implausible input of the conversion to SUVbw; the text says which."""


def seconds_to_reference(slices: list[Dataset], drug: Dataset, mode: str, half_life: float) -> float:
    """Seconds from injection to the moment that the images are decay-corrected to.

    Args:
        slices: headers of the slices.
        drug: the item of the Radiopharmaceutical Information Sequence.
        mode: Decay Correction: START or NONE; for ADMIN there is nothing to compute.
        half_life: in seconds.

    Raises:
        NoSuv: when a time is missing or two contradict each other.
    """
    reference = _reference(slices, mode, half_life)
    clock = h.seconds_of_day(h.text(drug, "RadiopharmaceuticalStartTime"))
    exact = _local(h.text(drug, "RadiopharmaceuticalStartDateTime"), slices[0])
    if exact is not None:
        if clock is not None and abs((_of_day(exact) - clock + HALF_DAY) % DAY - HALF_DAY) > SAME_MOMENT_S:
            raise NoSuv("two times of injection in the header contradict each other")
        return (reference - exact).total_seconds()
    if clock is None:
        raise NoSuv("the time of injection is missing")
    # only the time of day is known: later than the scan means the evening before, across midnight
    elapsed = (_of_day(reference) - clock) % DAY
    if elapsed + DAY <= LONGEST_HALF_LIVES * half_life:
        raise NoSuv("only the time of day of the injection is known, and it may have been days before the scan")
    return elapsed


def _reference(slices: list[Dataset], mode: str, half_life: float) -> datetime:
    if mode == "NONE":
        return _frame_time(slices, half_life)
    stated = {h.text(header, "DecayCorrectionDateTime") for header in slices}
    if stated != {""}:  # an enhanced PET names the moment
        moment = _local(stated.pop(), slices[0])
        if moment is None or stated:
            raise NoSuv("the moment of decay correction is invalid or differs between the slices")
        return moment
    return _scan_start(slices, half_life)


def _of_day(moment: datetime) -> float:
    return moment.hour * 3600 + moment.minute * 60 + moment.second + moment.microsecond / 1e6


def _local(value: str, header: Dataset) -> datetime | None:
    """A DICOM date-time in the time zone of the header's other times, where both name a zone."""
    moment = h.date_time(value)
    own, others = ZONE.search(value), ZONE.search(h.text(header, "TimezoneOffsetFromUTC"))
    if moment is None or own is None or others is None:
        return moment
    return moment + _offset(others[0]) - _offset(own[0])


def _offset(zone: str) -> timedelta:
    minutes = int(zone[1:3]) * 60 + int(zone[3:5])
    return timedelta(minutes=-minutes if zone[0] == "-" else minutes)


def _scan_start(slices: list[Dataset], half_life: float) -> datetime:
    """Start of the scan: series time unless that is later than the first acquisition, as in a reprocessed series."""
    acquired = acquisitions(slices)
    if not acquired:
        raise NoSuv("the acquisition time is missing")
    earliest, header = acquired[0]
    series = _moment(slices[0], "Series")
    if series is not None and series <= earliest:
        return series
    scanned = h.date_time(h.private(slices[0], 0x0009, "GEMS_PETD_01", 0x0D))
    if scanned is not None:
        return scanned
    reference_ms = h.number(header, "FrameReferenceTime")
    duration_ms = h.number(header, "ActualFrameDuration")
    if reference_ms and duration_ms:
        return earliest - timedelta(seconds=reference_ms / 1000 - average_rate_time(duration_ms / 1000, half_life))
    return earliest


def _frame_time(slices: list[Dataset], half_life: float) -> datetime:
    """For images that are not decay-corrected: the moment of the frame's average count rate, one for all slices."""
    acquired = acquisitions(slices)
    durations = {h.number(header, "ActualFrameDuration") for header in slices}
    if len(acquired) != len(slices) or len({moment for moment, _ in acquired}) != 1 or len(durations) != 1:
        raise NoSuv("the images are not decay-corrected and were not all acquired in one frame")
    duration_ms = durations.pop()
    if not duration_ms:
        raise NoSuv("the images are not decay-corrected and the frame duration is missing")
    return acquired[0][0] + timedelta(seconds=average_rate_time(duration_ms / 1000, half_life))


def average_rate_time(duration_s: float, half_life_s: float) -> float:
    """Seconds into a frame at which the decaying count rate equals its average over the frame."""
    decay = math.log(2) / half_life_s * duration_s
    return duration_s / decay * math.log(decay / -math.expm1(-decay))


def acquisitions(slices: list[Dataset]) -> list[tuple[datetime, Dataset]]:
    """Moment of acquisition and header of every slice that names one, earliest first."""
    found = [(_moment(header, "Acquisition"), header) for header in slices]
    return sorted([(moment, header) for moment, header in found if moment is not None], key=lambda pair: pair[0])


def _moment(header: Dataset, which: str) -> datetime | None:
    """Date and time of the series or acquisition; a date that is invalid is taken from the others."""
    for date in (f"{which}Date", "SeriesDate", "AcquisitionDate", "StudyDate"):
        moment = h.moment(h.text(header, date), h.text(header, f"{which}Time"))
        if moment is not None:
            return moment
    return h.date_time(h.text(header, f"{which}DateTime"))


def decay_factor_error(slices: list[Dataset], half_life: float) -> float:
    """How far the images' own Decay Factor would move the SUV, as a fraction; 0.0 where there is none to compare.

    The factor scales the average rate of a frame back to the reference, so that it names that moment once more.

    Args:
        slices: headers of images corrected to the start of the scan.
        half_life: in seconds.
    """
    stated = [(h.number(header, "DecayFactor") or 0.0, header) for header in slices]
    known = [(factor, header) for factor, header in stated if factor >= 1 and _moment(header, "Acquisition")]
    if not known:
        return 0.0
    factor, header = min(known, key=lambda pair: pair[0])
    acquired, duration_ms = _moment(header, "Acquisition"), h.number(header, "ActualFrameDuration")
    if acquired is None or not duration_ms:
        return 0.0
    implied = average_rate_time(duration_ms / 1000, half_life) - math.log2(factor) * half_life
    used = (_reference(slices, "START", half_life) - acquired).total_seconds()
    return abs(math.expm1(math.log(2) * (used - implied) / half_life))
