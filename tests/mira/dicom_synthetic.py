"""Small synthetic DICOM files for tests: valid by default, spoilt on purpose by keyword."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4", "PT": "1.2.840.10008.5.1.4.1.1.128"}
ROOT = "1.2.826.0.1.3680043.10.9999"


def pixels(number: int, size: tuple[int, int] = (20, 24), dtype: type = np.int16) -> np.ndarray:
    """Stored values that differ in every slice; at most 12 bits."""
    return np.random.default_rng(number).integers(1, 2000, size).astype(dtype)


def pet_drug(**changes) -> Dataset:
    drug = Dataset()
    drug.RadiopharmaceuticalStartTime = "090000"
    drug.RadionuclideTotalDose = "370000000"
    drug.RadionuclideHalfLife = "6586.2"
    for keyword, value in changes.items():
        setattr(drug, keyword, value)
    return drug


def make_header(modality: str = "CT", number: int = 0, stored: np.ndarray | None = None, **changes) -> FileDataset:
    """One slice of a series along z at `number` * 2 mm; every attribute can be changed, or left out by None."""
    stored = pixels(number) if stored is None else stored
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID(CLASSES[modality])
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    fields = {
        "SOPClassUID": CLASSES[modality],
        "SOPInstanceUID": f"{ROOT}.3.{number + 1}",
        "StudyInstanceUID": f"{ROOT}.1",
        "SeriesInstanceUID": f"{ROOT}.2.{list(CLASSES).index(modality) + 1}",
        "FrameOfReferenceUID": f"{ROOT}.4",
        "Modality": modality,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"] if modality == "CT" else ["ORIGINAL", "PRIMARY"],
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "Biograph 40",
        "PatientID": "P-1",
        "PatientName": "Doe^Jane",
        "StudyDate": "20200102",
        "StudyTime": "095900",
        "StudyID": "S1",
        "AccessionNumber": "A1",
        "SeriesNumber": 1,
        "SeriesDate": "20200102",
        "AcquisitionDate": "20200102",
        "SeriesTime": "100000",
        "AcquisitionTime": "100000",
        "InstanceNumber": number + 1,
        "ImagePositionPatient": [-10.0, -20.0, 2.0 * number],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [1.5, 0.5],
        "SliceThickness": 2.0,
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(np.issubdtype(stored.dtype, np.signedinteger)),
    }
    if modality == "CT":
        fields |= {"RescaleSlope": 1, "RescaleIntercept": -1024, "ConvolutionKernel": "Br38f", "KVP": 120}
    if modality == "PT":
        fields |= {
            "RescaleSlope": 0.5,
            "RescaleIntercept": 0,
            "Units": "BQML",
            "DecayCorrection": "START",
            "CorrectedImage": ["DECY", "ATTN"],
            "PatientWeight": 74,
            "ActualFrameDuration": 120000,
            "RadiopharmaceuticalInformationSequence": [pet_drug()],
        }
    for keyword, value in (fields | changes).items():
        if value is not None:
            setattr(ds, keyword, value)
    ds.PixelData = stored.tobytes()
    meta.MediaStorageSOPInstanceUID = UID(ds.get("SOPInstanceUID") or f"{ROOT}.5")
    return ds


def write(folder: Path, datasets: list[FileDataset], prefix: str = "f") -> list[Path]:
    """Save datasets under names in their order; as pydicom wrote them, wrong values and all."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, ds in enumerate(datasets):
        path = folder / f"{prefix}{number:03d}.dcm"
        ds.save_as(path, enforce_file_format=False)
        paths.append(path)
    return paths


def make_series(folder: Path, modality: str = "CT", slices: int = 4, **changes) -> list[Path]:
    """Write a whole valid series; changes apply to every slice."""
    return write(folder, [make_header(modality, number, **changes) for number in range(slices)], modality.lower())


def structure_set(contours: dict[int, list[list[tuple[float, float, float]]]], **changes) -> FileDataset:
    """An RTSTRUCT with closed contours per ROI number, drawn on the CT series of `make_header`."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.481.3")
    meta.MediaStorageSOPInstanceUID = UID(f"{ROOT}.6")
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = meta.MediaStorageSOPClassUID, f"{ROOT}.6", "RTSTRUCT"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}.1", f"{ROOT}.6.1"
    series = Dataset()
    series.SeriesInstanceUID = changes.pop("series", f"{ROOT}.2.1")
    study = Dataset()
    study.RTReferencedSeriesSequence = [series]
    frame = Dataset()
    frame.FrameOfReferenceUID = changes.pop("frame", f"{ROOT}.4")
    frame.RTReferencedStudySequence = [study]
    ds.ReferencedFrameOfReferenceSequence = [frame]
    ds.ROIContourSequence = []
    for roi, outlines in contours.items():
        item = Dataset()
        item.ReferencedROINumber = roi
        item.ContourSequence = []
        for points in outlines:
            contour = Dataset()
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{value:.4f}" for point in points for value in point]
            item.ContourSequence.append(contour)
        ds.ROIContourSequence.append(item)
    for keyword, value in changes.items():
        setattr(ds, keyword, value)
    return ds
