"""The expected error of a restored series as a second derived series, for viewers to lay over or beside the first.

It is an image of the source's own kind and unit (HU, what SUV are made of, MR a.u.), so that what opens the restored
series opens it, too, with its quantity declared: one standard deviation, by a Real World Value Mapping (PS3.3
C.7.6.16.2.11). It refers to its source images and to the restored ones, and its window shows it from zero on.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence

from mira.dicom import headers as h
from mira.dicom.derivation import code, restored_by, suffixed
from mira.dicom.derive import SERIES_NUMBER_STEP, check, write_series
from mira.dicom.stored import Stored, encode_error
from mira.dicom.volume import SeriesVolume
from mira.errors import DataRejected
from mira.tasks import Modality

UNITS = {
    Modality.CT: ("HU", code("[hnsf'U]", "Hounsfield unit", "UCUM")),
    Modality.PET: ("SUV", code("g/ml{SUVbw}", "Standardized Uptake Value body weight", "UCUM")),
    Modality.MR: ("a.u.", code("[arb'U]", "arbitrary unit", "UCUM")),
}
SHOWN = 99.5  # percentile of the map at which its window ends
WINDOW = ("WindowCenterWidthExplanation", "WindowCenter", "WindowWidth")


def write_expected_error(
    source: SeriesVolume,
    error: NDArray[np.float32],
    restored: Sequence[Path],
    out: Path,
    model: str,
    version: str,
    progress: bool = False,
) -> list[Path]:
    """Write the expected error of a restored series; the folder appears complete or not at all.

    Args:
        source: the series that was restored.
        error: float32 [slices, rows, columns], one standard deviation in the unit of `source`, on its grid.
        restored: files of the restored series, in slice order.
        out: folder of the new series, which must not exist yet.
        model: name of the network.
        version: its version.
        progress: whether to show a progress bar.

    Returns:
        The files, in slice order.

    Raises:
        DataRejected: as `write_derived`, and for values below zero.
    """
    check(source, error, out)
    if error.min() < 0:
        raise DataRejected("An expected error cannot be below zero; nothing was written.")
    unit, unit_code = UNITS[source.modality]
    label = f"expected error (1 SD), {unit}, research use"
    purpose = replace(
        restored_by(model, version),
        label=label,
        description=f"Expected error of the restoration by MIRA-Net ({model} {version or 'unversioned'}), as one "
        f"standard deviation in {unit}; not an image of the patient. Research use only; not for primary diagnosis.",
        code=("EXPECTED_ERROR", "Expected error of image restoration"),
    )
    stored = encode_error(source, error)
    high = float(np.percentile(error, SHOWN)) or 1.0
    wanted = ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID"]
    targets = [dcmread(path, stop_before_pixels=True, specific_tags=wanted) for path in restored]

    def amend(dataset: Dataset, index: int) -> None:
        before = source.headers[index]
        dataset.StudyInstanceUID = targets[index].StudyInstanceUID  # made up where the source has none
        dataset.SeriesNumber = int(h.number(before, "SeriesNumber") or 0) + 2 * SERIES_NUMBER_STEP
        dataset.SeriesDescription = suffixed(h.text(before, "SeriesDescription"), label)
        dataset.ImageType = [*list(dataset.ImageType)[: 2 if source.modality is Modality.PET else 3], "EXPECTED_ERROR"]
        for keyword in WINDOW:
            if keyword in dataset:
                delattr(dataset, keyword)
        dataset.VOILUTFunction = "LINEAR_EXACT"  # the width may be below one
        shown = high / source.suv_factor if source.modality is Modality.PET else high
        dataset.WindowCenter, dataset.WindowWidth = f"{shown / 2:.6g}", f"{shown:.6g}"
        dataset.ReferencedImageSequence = DicomSequence([_reference(targets[index])])
        dataset.RealWorldValueMappingSequence = DicomSequence([_mapping(stored[index], source, unit, unit_code)])

    return write_series(source, stored, out, purpose, progress, amend)


def _reference(restored: Dataset) -> Dataset:
    """The restored image whose error it is."""
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = restored.SOPClassUID, restored.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = DicomSequence([code("RESTORED_IMAGE", "Restored image with this error")])
    return item


def _mapping(stored: Stored, source: SeriesVolume, unit: str, unit_code: Dataset) -> Dataset:
    """From stored values to the quantity, whatever the image's own rescale leads to (activity in most PET)."""
    signed = stored.pixels.dtype.kind == "i"
    item = Dataset()
    factor = source.suv_factor if source.modality is Modality.PET else 1.0
    item.RealWorldValueSlope = float(stored.slope or 1) * factor
    item.RealWorldValueIntercept = float(stored.intercept or 0) * factor
    for keyword, value in (("First", stored.pixels.min()), ("Last", stored.pixels.max())):
        item.add_new(f"RealWorldValue{keyword}ValueMapped", "SS" if signed else "US", int(value))
    item.LUTExplanation = f"expected error (1 SD) in {unit}"
    item.LUTLabel = "EXPECTED_ERROR"
    item.MeasurementUnitsCodeSequence = DicomSequence([unit_code])
    quantity = Dataset()
    quantity.ValueType = "CODE"
    quantity.ConceptNameCodeSequence = DicomSequence([code("246205007", "Quantity", "SCT")])
    quantity.ConceptCodeSequence = DicomSequence([code("386136009", "Standard Deviation", "SCT")])
    item.QuantityDefinitionSequence = DicomSequence([quantity])
    return item
