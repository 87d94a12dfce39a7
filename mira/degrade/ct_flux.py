"""Photons per ray from what a record tells of the protocol: tube current, exposure, voltage and slice thickness."""

import numpy as np

from mira.cases import CaseRecord

# Photons per mm of ray pitch, per mm of slice, over all views of a turn, at REFERENCE_MAS and REFERENCE_KVP. From the
# parameters used for the AAPM-Mayo full-dose scans: 1.5e5 photons a ray, 1152 views, 1.01 mm pitch at the centre.
FLUX_DENSITY = 1.5e5 * 1152 / 1.01
REFERENCE_MAS = 200.0
REFERENCE_KVP = 120.0
# Rotation time over pitch where only the tube current is known: 0.5 s, pitch 1.
ROTATION_SECONDS = 0.5
# GE scanners may write an exposure of about a quarter of tube current times rotation time over pitch, which would be
# a turn of less than this. Other vendors reach it by dual-source acquisitions of high pitch, and mean it.
SHORTEST_TURN_SECONDS = 0.25


def exposure_mas(record: CaseRecord | None) -> float:
    """Exposure in mAs: the record's, or its tube current for `ROTATION_SECONDS`, or `REFERENCE_MAS`."""
    if record is None:
        return REFERENCE_MAS
    exposure, current = record.protocol.exposure_mas, record.protocol.tube_current_ma
    if current is None:
        return exposure or REFERENCE_MAS
    doubtful = record.scanner.manufacturer.upper().startswith("GE")
    if exposure is None or (doubtful and exposure < current * SHORTEST_TURN_SECONDS):
        return current * ROTATION_SECONDS
    return exposure


def photons_of_ray(record: CaseRecord | None, pixel_mm: float, thickness_mm: float, views: int) -> float:
    """Incident photons of one ray of a parallel geometry with bins of one pixel.

    Proportional to exposure, slice thickness and tube voltage to the power 2.5 (output of a tungsten tube behind a
    body), each within the limits of routine scanning.

    Args:
        record: the case; defaults without it.
        pixel_mm: pixel spacing, the width of a bin.
        thickness_mm: slice thickness.
        views: views over 180 degrees that share the photons of a turn.
    """
    kvp = (record.protocol.kvp if record is not None else None) or REFERENCE_KVP
    load = float(np.clip(exposure_mas(record) / REFERENCE_MAS, 0.1, 5.0))
    voltage = float(np.clip(kvp / REFERENCE_KVP, 0.5, 1.3)) ** 2.5
    return float(FLUX_DENSITY * load * voltage * pixel_mm * thickness_mm / views)
