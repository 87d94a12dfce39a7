"""Physical units of CT and MR: the Hounsfield scale, and the robust scale of MR. PET: `mira.dicom.suv`."""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mira.dicom import headers as h
from mira.dicom.reasons import Reason, Refused
from mira.dicom.remembered import remembered


@remembered("RescaleSlope", "RescaleIntercept", "RescaleType")
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


def rescale_inputs(slices: list[Dataset]) -> dict[str, float]:
    """Lowest and highest slope and intercept of the slices' own rescale, as a record keeps them.

    Args:
        slices: headers of the slices; one without a rescale counts as slope 1 and intercept 0.
    """
    known, intercepts = zip(*(_rescale(header) for header in slices), strict=True)
    return {
        "slope_lowest": min(known),
        "slope_highest": max(known),
        "intercept_lowest": min(intercepts),
        "intercept_highest": max(intercepts),
    }


@remembered("RescaleSlope", "RescaleIntercept")
def _rescale(header: Dataset) -> tuple[float, float]:
    slope = h.number(header, "RescaleSlope")
    return 1.0 if slope is None else slope, h.number(header, "RescaleIntercept") or 0.0


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
