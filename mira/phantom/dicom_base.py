"""What all DICOM objects of the demo share: patient, study, equipment, geometry, and the way to disk."""

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from mira.phantom.identity import Person
from mira.phantom.raster import Grid
from mira.phantom.scanners import Device, SiteSpec

IMPLEMENTATION_UID = "2.25.302180345716540187341529861734512098"
IMPLEMENTATION_NAME = "MIRA_PHANTOM_1"


@dataclass(frozen=True)
class Frame:
    """Where a grid lies in the patient: a rotation about the left-right axis and a shift of the table.

    Attributes:
        grid: the grid in the anatomy's frame.
        tilt_deg: rotation of the stack, positive turns the front up.
        origin: position of the anatomy's origin in patient coordinates, LPS mm.
    """

    grid: Grid
    tilt_deg: float = 0.0
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def rotation(self) -> NDArray[np.float64]:
        """3x3 matrix from the anatomy's axes to patient axes (both are left, back, head)."""
        c, s = np.cos(np.deg2rad(self.tilt_deg)), np.sin(np.deg2rad(self.tilt_deg))
        return np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])

    def to_patient(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """[..., 3] points of the anatomy in patient coordinates, LPS mm."""
        moved: NDArray[np.float64] = points @ self.rotation.T + np.array(self.origin)
        return moved

    def corner(self, index: int) -> list[float]:
        """ImagePositionPatient of a slice."""
        point = np.array([self.grid.x()[0], self.grid.y()[0], self.grid.z()[index]])
        return [round(float(v), 4) for v in self.to_patient(point)]

    def orientation(self) -> list[float]:
        """ImageOrientationPatient."""
        rotation = self.rotation
        return [round(float(v), 6) + 0.0 for v in (*rotation[:, 0], *rotation[:, 1])]


@dataclass(frozen=True)
class StudyInfo:
    """A study's identity.

    Attributes:
        uid: StudyInstanceUID.
        number: StudyID.
        accession: AccessionNumber.
        start: when it began.
        description: StudyDescription.
    """

    uid: str
    number: str
    accession: str
    start: dt.datetime
    description: str


def da(when: dt.date) -> str:
    """A DICOM date."""
    return f"{when:%Y%m%d}"


def tm(when: dt.datetime) -> str:
    """A DICOM time with milliseconds."""
    return f"{when:%H%M%S}.{when.microsecond // 1000:03d}"


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A coded entry."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


def base(sop_class: str, site: SiteSpec, person: Person, study: StudyInfo, device: Device) -> Dataset:
    """A dataset with the SOP common, patient, study and equipment modules; instance and series are still to come."""
    ds = Dataset()
    ds.SpecificCharacterSet = site.charset
    ds.SOPClassUID = sop_class
    ds.InstanceCreationDate, ds.InstanceCreationTime = da(study.start), tm(study.start)
    ds.PatientName = person.name
    ds.PatientID = person.patient_id
    ds.IssuerOfPatientID = f"{site.short} DEMO"
    ds.PatientBirthDate = da(person.birth)
    ds.PatientSex = person.sex
    ds.PatientAge = f"{person.age():03d}Y"
    ds.PatientSize = f"{person.height_m:.2f}"
    ds.PatientWeight = f"{person.weight_kg:.1f}"
    ds.PatientComments = f"Invented person {person.name}; no human being"
    ds.StudyInstanceUID = study.uid
    ds.StudyID = study.number
    ds.AccessionNumber = study.accession
    ds.StudyDate, ds.StudyTime = da(study.start), tm(study.start)
    ds.StudyDescription = study.description
    ds.ReferringPhysicianName = "REFERRER^FICTIONAL"
    ds.Manufacturer = device.manufacturer
    ds.ManufacturerModelName = device.model
    ds.DeviceSerialNumber = device.serial
    ds.SoftwareVersions = device.software
    ds.InstitutionName = site.hospital
    ds.InstitutionAddress = "1 Nowhere Road, Fictional Town"
    ds.StationName = f"DEMO{site.short[:6]}"
    ds.InstitutionalDepartmentName = "Radiology"
    return ds


def series(
    ds: Dataset, modality: str, uid: str, number: int, description: str, protocol: str, start: dt.datetime, part: str
) -> None:
    """Add the general series module."""
    ds.Modality = modality
    ds.SeriesInstanceUID = uid
    ds.SeriesNumber = number
    ds.SeriesDescription = description
    ds.ProtocolName = protocol
    ds.SeriesDate, ds.SeriesTime = da(start), tm(start)
    ds.OperatorsName = "OPERATOR^FICTIONAL"
    if part:
        ds.BodyPartExamined = part


def plane(ds: Dataset, frame: Frame, index: int, frame_of_reference: str) -> None:
    """Add frame of reference and image plane of one slice."""
    grid = frame.grid
    ds.FrameOfReferenceUID = frame_of_reference
    ds.PositionReferenceIndicator = None
    ds.PatientPosition = "HFS"
    ds.ImagePositionPatient = frame.corner(index)
    ds.ImageOrientationPatient = frame.orientation()
    normal = np.cross(frame.orientation()[:3], frame.orientation()[3:])
    ds.SliceLocation = f"{float(np.dot(normal, frame.corner(index))):.3f}"
    ds.PixelSpacing = [f"{grid.pixel_mm:.6g}"] * 2
    ds.SliceThickness = f"{grid.slice_mm:.6g}"


def pixels(ds: Dataset, stored: NDArray[np.integer], bits_stored: int, signed: bool) -> None:
    """Add the image pixel module, 16 bits allocated."""
    ds.SamplesPerPixel = 1
    ds.PhotometricInterpretation = "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, bits_stored, bits_stored - 1
    ds.PixelRepresentation = int(signed)
    ds.PixelData = stored.astype("<i2" if signed else "<u2").tobytes()


def save(ds: Dataset, path: Path, implicit: bool) -> None:
    """Write a dataset as a Part 10 file."""
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = ds.SOPClassUID
    meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_NAME
    ds.file_meta = meta
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True, implicit_vr=implicit, little_endian=True)
