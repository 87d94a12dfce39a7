"""CT, PET and MR series as DICOM files, each with its vendor's way of storing numbers."""

import datetime as dt
from collections.abc import Iterator
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mira.phantom.dicom_base import Frame, StudyInfo, base, code, da, pixels, plane, series, tm
from mira.phantom.identity import Person
from mira.phantom.scanners import SiteSpec
from mira.phantom.shapes import Array
from mira.phantom.tissue import Sequence

CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"
PET_IMAGE = "1.2.840.10008.5.1.4.1.1.128"
MR_IMAGE = "1.2.840.10008.5.1.4.1.1.4"
HALF_LIFE_F18_S = 6586.2


def ct_series(
    site: SiteSpec, person: Person, study: StudyInfo, frame: Frame, voxels_hu: Array, *, contrast: bool, reference: str
) -> Iterator[Dataset]:
    """CT Image Storage instances, from the head down as scanners number them.

    Args:
        site: site with its CT protocol.
        person: the patient.
        study: the study.
        frame: geometry.
        voxels_hu: CT numbers [slices, rows, columns], from the feet to the head.
        contrast: whether contrast medium was given.
        reference: FrameOfReferenceUID.
    """
    protocol = site.ct
    start = study.start + dt.timedelta(seconds=140)
    ds = base(CT_IMAGE, site, person, study, protocol.device)
    what = person.region.capitalize()
    uid = person.uid("series", "ct")
    series(
        ds, "CT", uid, 2, f"{what} {protocol.slice_mm:.1f} {protocol.kernel}", f"{what}Routine", start, _part(person)
    )
    ds.KVP = f"{protocol.kvp:.0f}"
    ds.ScanOptions = "HELICAL MODE" if site.layout == "ge" else "HELIX"
    ds.DataCollectionDiameter = "500"
    ds.ReconstructionDiameter = f"{protocol.fov_mm:.0f}"
    ds.GantryDetectorTilt = "0"
    ds.TableHeight = "150"
    ds.RotationDirection = "CW"
    ds.ExposureTime = protocol.exposure_ms
    ds.XRayTubeCurrent = protocol.tube_current_ma
    ds.Exposure = round(protocol.tube_current_ma * protocol.exposure_ms / 1000)
    ds.FilterType = "BODY FILTER"
    ds.GeneratorPower = round(protocol.kvp * protocol.tube_current_ma / 1000)
    ds.FocalSpots = ["1.2"]
    ds.ConvolutionKernel = protocol.kernel
    ds.RevolutionTime = protocol.exposure_ms / 1000
    ds.SingleCollimationWidth = 0.625
    ds.TotalCollimationWidth = 40.0
    ds.SpiralPitchFactor = protocol.pitch
    ds.TableFeedPerRotation = 40.0 * protocol.pitch
    ds.TableSpeed = 40.0 * protocol.pitch / (protocol.exposure_ms / 1000)
    ds.ExposureModulationType = "XYZ_EC" if site.layout == "siemens" else "AUTO"
    ds.CTDIvol = protocol.ctdi_mgy
    ds.CTDIPhantomTypeCodeSequence = [code("113691", "DCM", "IEC Body Dosimetry Phantom")]
    if contrast:
        ds.ContrastBolusAgent = "APPLIED"
        ds.ContrastBolusRoute = "IV"
        ds.ContrastBolusVolume = "90"
    image_type = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ImageType = [*image_type, "CT_SOM5 SPI"] if site.layout == "siemens" else image_type
    ds.AcquisitionNumber = 2
    ds.AcquisitionDate = ds.ContentDate = da(start)
    ds.BurnedInAnnotation = "NO"
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(protocol.intercept), "1", "HU"
    if site.layout == "philips":
        ds.WindowCenter, ds.WindowWidth = ["60", "-600"], ["360", "1600"]
        ds.WindowCenterWidthExplanation = ["WINDOW1", "WINDOW2"]
    else:
        ds.WindowCenter, ds.WindowWidth = ("40", "400") if person.region == "abdomen" else ("50", "350")
    low, high = (-(2**15), 2**15 - 1) if protocol.signed else (0, 2**protocol.bits_stored - 1)
    if protocol.padding is not None:
        ds.PixelPaddingValue = protocol.padding
    stored = np.clip(np.rint(voxels_hu - protocol.intercept), low, high).astype(np.int32)
    if protocol.padding is not None:
        stored[:, _outside_circle(frame.grid.size)] = protocol.padding
    count = len(stored)
    for number in range(1, count + 1):
        index = count - number
        image = deepcopy(ds)
        moment = start + dt.timedelta(seconds=0.4 * number)
        image.SOPInstanceUID = person.uid("ct", index)
        image.InstanceNumber = number
        image.AcquisitionTime = image.ContentTime = tm(moment)
        plane(image, frame, index, reference)
        pixels(image, stored[index], protocol.bits_stored, protocol.signed)
        yield image


def _part(person: Person) -> str:
    return "ABDOMEN" if person.region == "abdomen" else "CHEST"


def _outside_circle(size: int) -> NDArray[np.bool_]:
    offset = np.arange(size) - (size - 1) / 2
    outside: NDArray[np.bool_] = np.hypot(offset[:, None], offset[None, :]) > size / 2
    return outside


def pet_series(
    site: SiteSpec, person: Person, study: StudyInfo, frame: Frame, voxels_suv: Array, *, reference: str
) -> Iterator[Dataset]:
    """Positron Emission Tomography Image Storage instances in BQML with what SUVbw needs.

    The stored activity concentration is SUV x dose / weight, decayed to the time that DecayCorrection names: the start
    of the series (START), or not at all (ADMIN, referred to the injection).

    Args:
        site: site with its PET protocol.
        person: the patient.
        study: the study.
        frame: geometry.
        voxels_suv: uptake [slices, rows, columns], SUVbw, from the feet to the head.
        reference: FrameOfReferenceUID, the CT's.
    """
    protocol = site.pet
    start = study.start + dt.timedelta(seconds=420)
    injected = start - dt.timedelta(minutes=protocol.uptake_min)
    dose_bq = round(protocol.dose_mbq_per_kg * person.weight_kg, 1) * 1e6
    rate = np.log(2) / HALF_LIFE_F18_S
    to_reference = np.exp(-rate * (start - injected).total_seconds()) if protocol.decay_correction == "START" else 1.0
    activity = voxels_suv.astype(np.float64) * dose_bq * to_reference / (person.weight_kg * 1000)

    ds = base(PET_IMAGE, site, person, study, protocol.device)
    uid = person.uid("series", "pet")
    series(ds, "PT", uid, 4, f"PET {protocol.reconstruction} (AC)", "PET WB", start, _part(person))
    ds.ImageType = ["ORIGINAL", "PRIMARY"]
    ds.Units = "BQML"
    ds.CountsSource = "EMISSION"
    ds.SeriesType = ["WHOLE BODY", "IMAGE"]
    ds.NumberOfSlices = len(activity)
    ds.CorrectedImage = ["DECY", "ATTN", "SCAT", "DTIM", "RAN", "NORM"]
    ds.RandomsCorrectionMethod = "DLYD"
    ds.AttenuationCorrectionMethod = "CT-derived mu-map"
    ds.ScatterCorrectionMethod = "Model-based"
    ds.DecayCorrection = protocol.decay_correction
    ds.ReconstructionMethod = protocol.reconstruction
    ds.ConvolutionKernel = f"XYZ Gauss{protocol.resolution_mm:.2f}"
    ds.ReconstructionDiameter = f"{frame.grid.pixel_mm * frame.grid.size:.1f}"
    ds.CollimatorType = "NONE"
    ds.FieldOfViewShape = "CYLINDRICAL RING"
    ds.TypeOfDetectorMotion = "NONE"
    ds.RadiopharmaceuticalInformationSequence = [_tracer(site, injected, dose_bq)]
    ds.PatientOrientationCodeSequence = [_recumbent()]
    ds.PatientGantryRelationshipCodeSequence = [code("102540001", "SCT", "headfirst")]
    ds.AcquisitionDate = ds.ContentDate = da(start)
    ds.AcquisitionTime = ds.ContentTime = tm(start)
    ds.ActualFrameDuration = round(protocol.frame_s * 1000)
    frame_reference = _mean_activity_time(protocol.frame_s, rate)
    ds.FrameReferenceTime = f"{1000 * frame_reference:.1f}"
    if protocol.decay_correction == "START":
        decay = np.exp(rate * frame_reference)
    else:
        decay = np.exp(rate * ((start - injected).total_seconds() + frame_reference))
    ds.DecayFactor = f"{decay:.8g}"
    ds.DoseCalibrationFactor = "1"
    ds.ScatterFractionFactor = "0.35"
    ds.DeadTimeFactor = "1.04"
    ds.LossyImageCompression = "00"
    ds.BurnedInAnnotation = "NO"
    ds.RescaleIntercept = "0"
    count = len(activity)
    for number in range(1, count + 1):
        index = count - number
        image = deepcopy(ds)
        slope = float(f"{max(float(activity[index].max()), 1.0) / 32767:.10g}")
        image.SOPInstanceUID = person.uid("pet", index)
        image.InstanceNumber = image.ImageIndex = number
        image.RescaleSlope = f"{slope:.10g}"
        stored = np.clip(np.rint(activity[index] / slope), 0, 32767).astype(np.int32)
        image.WindowCenter, image.WindowWidth = f"{slope * 16384:.6g}", f"{slope * 32767:.6g}"
        plane(image, frame, index, reference)
        del image.PatientPosition  # its place is taken by the orientation codes
        pixels(image, stored, 16, True)
        yield image


def _mean_activity_time(duration_s: float, rate: float) -> float:
    """Seconds into a frame at which the activity has its mean over the frame (DICOM C.8.9.4.1.5)."""
    return float(np.log(rate * duration_s / (1 - np.exp(-rate * duration_s))) / rate)


def _tracer(site: SiteSpec, injected: dt.datetime, dose_bq: float) -> Dataset:
    item = Dataset()
    item.Radiopharmaceutical = "Fluorodeoxyglucose"
    item.RadiopharmaceuticalRoute = "Intravenous route"
    item.RadiopharmaceuticalVolume = "5"
    item.RadiopharmaceuticalStartTime = tm(injected)
    if not site.pet.start_time_only:
        item.RadiopharmaceuticalStartDateTime = f"{da(injected)}{tm(injected)}"
    item.RadionuclideTotalDose = f"{dose_bq:.0f}"
    item.RadionuclideHalfLife = f"{HALF_LIFE_F18_S:.1f}"
    item.RadionuclidePositronFraction = "0.97"
    item.RadionuclideCodeSequence = [code("77004003", "SCT", "^18^Fluorine")]
    item.RadiopharmaceuticalCodeSequence = [code("35321007", "SCT", "Fluorodeoxyglucose F^18^")]
    item.AdministrationRouteCodeSequence = [code("47625008", "SCT", "Intravenous route")]
    return item


def _recumbent() -> Dataset:
    item = code("102538003", "SCT", "recumbent")
    item.PatientOrientationModifierCodeSequence = [code("40199007", "SCT", "supine")]
    return item


def mr_series(
    site: SiteSpec, person: Person, study: StudyInfo, frame: Frame, voxels: Array, sequence: Sequence, *, reference: str
) -> Iterator[Dataset]:
    """MR Image Storage instances, 12 bits, from the feet to the head.

    Args:
        site: site with its MR protocol.
        person: the patient.
        study: the study.
        frame: geometry.
        voxels: magnitude [slices, rows, columns], arbitrary units.
        sequence: the sequence.
        reference: FrameOfReferenceUID.
    """
    protocol = site.mr
    number_of_series = 3 if sequence.name == "T1" else 4
    start = study.start + dt.timedelta(minutes=4 * number_of_series)
    ds = base(MR_IMAGE, site, person, study, protocol.device)
    kind = {"SE": "tse" if sequence.train > 1 else "se", "GR": "fl2d"}[sequence.kind]
    name = f"{sequence.name.lower()}_{kind}_tra"
    series(ds, "MR", person.uid("series", sequence.name), number_of_series, name, name, start, "HEAD")
    ds.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND"] if site.layout == "siemens" else ["ORIGINAL", "PRIMARY", "OTHER"]
    ds.ScanningSequence = sequence.kind
    ds.SequenceVariant = "SP" if sequence.kind == "GR" else ("SK" if sequence.train > 1 else "NONE")
    ds.ScanOptions = None
    ds.MRAcquisitionType = "2D"
    ds.SequenceName = f"{kind}2d{sequence.train}"
    ds.AngioFlag = "N"
    ds.RepetitionTime, ds.EchoTime = f"{sequence.tr_ms:g}", f"{sequence.te_ms:g}"
    ds.EchoTrainLength = sequence.train
    ds.EchoNumbers = 1
    ds.FlipAngle = f"{sequence.flip_deg:g}"
    ds.NumberOfAverages = "1"
    ds.MagneticFieldStrength = f"{protocol.field_t:g}"
    ds.ImagingFrequency = f"{42.577 * protocol.field_t:.4f}"
    ds.ImagedNucleus = "1H"
    ds.SpacingBetweenSlices = f"{frame.grid.slice_mm:g}"
    ds.NumberOfPhaseEncodingSteps = round(frame.grid.size * protocol.fill[0])
    ds.PercentSampling = f"{100 * protocol.fill[0]:g}"
    ds.PercentPhaseFieldOfView = "100"
    ds.PixelBandwidth = "180"
    ds.ReconstructionDiameter = f"{protocol.fov_mm:g}"
    ds.ReceiveCoilName = "HEAD_DEMO"
    across, down = round(frame.grid.size * protocol.fill[1]), round(frame.grid.size * protocol.fill[0])
    ds.AcquisitionMatrix = [0, across, down, 0]
    ds.InPlanePhaseEncodingDirection = "COL"
    ds.VariableFlipAngleFlag = "N"
    ds.SAR = "0.4"
    ds.AcquisitionNumber = 1
    ds.AcquisitionDate = ds.ContentDate = da(start)
    ds.BurnedInAnnotation = "NO"
    stored = np.clip(np.rint(voxels), 0, 4095).astype(np.int32)
    high = float(np.percentile(stored, 99.5))
    ds.WindowCenter, ds.WindowWidth = f"{high / 2:.0f}", f"{max(high, 1):.0f}"
    for index in range(len(stored)):
        image = deepcopy(ds)
        image.SOPInstanceUID = person.uid(sequence.name, index)
        image.InstanceNumber = index + 1
        moment = start + dt.timedelta(seconds=0.8 * index)
        image.AcquisitionTime = image.ContentTime = tm(moment)
        plane(image, frame, index, reference)
        pixels(image, stored[index], 12, False)
        yield image
