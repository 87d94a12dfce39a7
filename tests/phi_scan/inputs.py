"""A hospital's export with invented identifying values in every odd place that we know of."""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from tests.mira.dicom_synthetic import make_header, pet_drug, structure_set
from tests.phi_scan.scanner import Secret

SIDE, SLICES = 48, 5
ROOT = "1.3.6.1.4.1.55555"
BIRTH, STUDY, OTHER_DAY = "19470713", "20190826", "20180305"


@dataclass
class Export:
    """Where the export is, and what must not leave it.

    Attributes:
        root: folder.
        secrets: the identifying values, each with the place it was put in.
    """

    root: Path
    secrets: list[Secret] = field(default_factory=list)

    def hide(self, place: str, value: str, kind: str = "text") -> str:
        """Remember a value and return it."""
        self.secrets.append(Secret(place, value, kind))
        return value


def body(seed: int, modality: str) -> np.ndarray:
    """Stored values of one slice: an ellipse with an organ and noise; 12 bits."""
    rows, columns = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    inside = (rows / 20) ** 2 + (columns / 17) ** 2 < 1
    organ = np.hypot(rows + 4, columns - 3) < 6
    level = {"CT": (24, 1060, 1120), "MR": (12, 700, 1100), "PT": (0, 900, 2700)}[modality]
    image = np.select([organ, inside], [level[2], level[1]], level[0])
    noise = np.random.default_rng(seed).normal(0, {"CT": 12, "MR": 20, "PT": 60}[modality], image.shape)
    return np.clip(image + noise, 0, 4000).astype(np.int16)


def make_export(root: Path) -> Export:
    """Write the export: three series and contours of a patient, others in odd character sets, damaged files, a zip."""
    export = Export(root)
    folder = root / export.hide("folder name", "Quillfeather_Rosalind") / export.hide("folder name", "MRN-77120934")
    for number, modality in enumerate(("CT", "PT", "MR")):
        uid = export.hide(f"series UID of {modality}", f"{ROOT}.8812{number}.40404{number}")
        for slice_number in range(SLICES):
            dataset = stuffed(export, modality, slice_number, uid)
            name = export.hide("file name", f"quillfeather-{modality}-{slice_number}-chart993.dcm")
            _save(dataset, folder / modality / name)
    _save(_contours(export), folder / "RS" / "plan_Brackenbury.dcm")
    export.hide("file name", "plan_Brackenbury")
    _character_sets(export, root)
    _damaged(export, folder, root)
    _archive(export, root)
    _pixel_text(root)
    return export


def stuffed(export: Export, modality: str, number: int, series: str) -> Dataset:
    """One slice with an identifying value wherever one fits."""
    hide = export.hide
    name = hide("PatientName", "Quillfeather^Rosalind^Ottoline^Dr^PhD", "name")
    ds = make_header(
        modality, number, body(number, modality), PatientName=name, PixelSpacing=[2.0, 2.0], SliceThickness=2.0,
        SOPInstanceUID=hide("SOPInstanceUID", f"{series}.7{number}31337"), SeriesInstanceUID=series,
        StudyInstanceUID=hide("StudyInstanceUID", f"{ROOT}.909090.1"),
        FrameOfReferenceUID=hide("FrameOfReferenceUID", f"{ROOT}.717171.2"),
        PatientID=hide("PatientID", "MRN-77120934"), PatientBirthDate=hide("PatientBirthDate", BIRTH, "date"),
        StudyDate=hide("StudyDate", STUDY, "date"), SeriesDate=STUDY, AcquisitionDate=STUDY, ContentDate=STUDY,
        StudyID=hide("StudyID", "STDY-55019"), AccessionNumber=hide("AccessionNumber", "ACC-31415926"),
    )  # fmt: skip
    _texts(ds, hide)
    _coded_fields_with_names(ds, modality)
    _sequences(ds, hide)
    _private(ds, hide, modality)
    _pictures_and_ends(ds, hide)
    if modality == "PT":
        drug = pet_drug(
            RadiopharmaceuticalStartDateTime=STUDY + "090000", Radiopharmaceutical="FDG for Quillfeather",
            RadionuclideTotalDose="370000000",
        )  # fmt: skip
        ds.RadiopharmaceuticalInformationSequence = Sequence([drug])
        ds.Units, ds.CorrectedImage, ds.RescaleSlope = "BQML", ["DECY", "ATTN"], 8
    return ds


def _texts(ds: Dataset, hide) -> None:
    free = {
        "StudyDescription": "Study Wexmorth follow up", "SeriesDescription": "Series for Mrs Tamsingale",
        "ImageComments": "Comment: call Brindlewick 0171-555-0199", "ProtocolName": "Protocol of Harkenfield",
        "DeviceSerialNumber": "SN-884422-77", "StationName": "STATIONVESPER", "InstitutionName": "Hospice Marrowdeep",
        "InstitutionAddress": "12 Gorsebank Lane", "InstitutionalDepartmentName": "Ward Thistledown",
        "OtherPatientIDs": "ALT-600613", "PatientAddress": "7 Umberstead Close", "PatientMotherBirthName": "Fennimore",
        "PatientTelephoneNumbers": "+44 1632 960111", "OperatorsName": "Oakhollow^Nils",
        "ReferringPhysicianName": "Drummelshire^Ada", "PerformingPhysicianName": "Plimworthy^Ezra",
        "PhysiciansOfRecord": "Cattermint^Lou", "RequestingPhysician": "Sedgewaite^Ivo",
        "AdditionalPatientHistory": "Fell at Larkenrise mill", "PatientComments": "Knows Mr Dunstable-Fry",
        "Occupation": "Bellfounder", "AdmissionID": "ADM-271828", "RequestedProcedureDescription": "For Ashgrovel",
        "PerformedProcedureStepDescription": "Step by Mossbeck", "DerivationDescription": "Made for Tolliver-Quaye",
        "AcquisitionComments": "Patient Inglesant moved", "PatientInsurancePlanCodeSequence": None,
        "DetectorID": "DET-909-QX", "GantryID": "GANTRYOSMUND", "PlateID": "PLATE-1212-Z", "RetrieveURL": None,
        "ContrastBolusAgent": "Agent of Pettibone", "TextComments": None, "IssuerOfPatientID": "KINGSFOLD-TRUST",
    }  # fmt: skip
    for keyword, value in free.items():
        if value is not None:
            kind = "name" if "^" in value else "text"
            setattr(ds, keyword, hide(keyword, value, kind))
    ds.PatientWeight, ds.PatientSize, ds.PatientSex, ds.PatientAge = "71.3", "1.69", "F", "072Y"
    ds.LastMenstrualDate = hide("LastMenstrualDate", OTHER_DAY, "date")
    ds.PerformedProcedureStepStartDate = ds.DateOfSecondaryCapture = OTHER_DAY
    ds.AcquisitionDateTime = STUDY + "100000.000000"
    ds.DateOfLastCalibration = "***"
    ds.PerformedStationAETitle = hide("AE title", "AE_VESPERTIN")
    ds.PixelDataProviderURL = hide("URL", "http://pacs.marrowdeep.example/qf")


def _coded_fields_with_names(ds: Dataset, modality: str) -> None:
    """Devices copy names, IDs and dates into fields that are meant for codes."""
    ds.ManufacturerModelName = "Scanner of Quillfeather"
    ds.SoftwareVersions = ["MRN-77120934", f"build {STUDY}"]
    ds.ScanOptions = "ROSALIND"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "QUILLFEATHER"] if modality == "MR" else ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.BodyPartExamined = "QUILLFEATHER"
    ds.SequenceName = "rosalind_3d"
    ds.FilterType = "ottoline"
    ds.TimezoneOffsetFromUTC = "+0100"


def _sequences(ds: Dataset, hide) -> None:
    step = Dataset()
    step.ScheduledProcedureStepDescription = hide("nested description", "Nested Hollowbrook scan")
    step.RequestedProcedureID = hide("nested ID", "RP-161803")
    inner = Dataset()
    inner.PatientName = hide("name three levels down", "Vanderwhistle^Petra", "name")
    inner.StudyDate = OTHER_DAY
    step.ReferencedPatientSequence = Sequence([inner])
    ds.RequestAttributesSequence = Sequence([step])
    reference = Dataset()
    reference.ReferencedSOPClassUID = ds.SOPClassUID
    reference.ReferencedSOPInstanceUID = hide("referenced UID", f"{ROOT}.55.66.778899")
    reference.TextValue = hide("text in a kept sequence", "Reference to Yarrowmere")
    reference.PatientID = "MRN-77120934"
    ds.ReferencedImageSequence = Sequence([reference])
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = hide("local code", "LOC-QF-4711"), "99HOSP"
    code.CodeMeaning = hide("meaning of a local code", "Scan of Ms Lindenholt")
    standard = Dataset()
    standard.CodeValue, standard.CodingSchemeDesignator = "113014", "DCM"
    standard.CodeMeaning = "Study for Quillfeather"
    ds.ProcedureCodeSequence = Sequence([code, standard])
    original = Dataset()
    modified = Dataset()
    modified.PatientName, modified.PatientID = hide("former name", "Penhallowick^Rosalind", "name"), "MRN-77120934"
    original.ModifiedAttributesSequence = Sequence([modified])
    ds.OriginalAttributesSequence = Sequence([original])
    equipment = Dataset()
    equipment.InstitutionName = hide("institution of a contributor", "Clinic Saltmarrow")
    equipment.StationName = hide("station of a contributor", "CONSOLEGRIMM")
    equipment.ContributionDateTime = OTHER_DAY + "120000"
    ds.ContributingEquipmentSequence = Sequence([equipment])


def _private(ds: Dataset, hide, modality: str) -> None:
    block = ds.private_block(0x0019, hide("private creator", "VENDOR WAXCAP"), create=True)
    block.add_new(0x01, "LO", hide("private LO", "private Nettlecombe"))
    block.add_new(0x02, "OB", hide("private OB", "bytes of Foxcatcher").encode())
    block.add_new(0x03, "UN", hide("private UN", "unknown Gravelsby").encode("utf-16-le"))
    nested = Dataset()
    nested.PatientName = hide("name in a private sequence", "Ravenscombe^Tib", "name")
    block.add_new(0x04, "SQ", Sequence([nested]))
    allowed = ds.private_block(0x7053, "Philips PET Private Group", create=True)
    allowed.add_new(0x00, "DS", "0.000123")
    allowed.add_new(0x09, "LO", hide("text at an allowed private tag", "factor Bramblewood"))
    allowed.add_new(0x10, "LO", hide("beside an allowed private tag", "note Larchbury"))
    start = ds.private_block(0x0009, "GEMS_PETD_01", create=True)
    start.add_new(0x0D, "DT", f"{STUDY}095500.00")
    ds.add_new(Tag(0x0018, 0x9999), "UN", hide("standard group, unknown tag", "tag of Wolverstone").encode())
    ds.add_new(Tag(0x0021, 0x0101), "LO", hide("private without a creator", "orphan Mickleham"))


def _pictures_and_ends(ds: Dataset, hide) -> None:
    for group in (0x6000, 0x6002):
        ds.add_new(Tag(group, 0x0010), "US", SIDE)
        ds.add_new(Tag(group, 0x0022), "LO", hide("overlay description", "Overlay Copperthwaite"))
        ds.add_new(Tag(group, 0x1500), "LO", hide("overlay label", "Label Dunmorrow"))
        ds.add_new(Tag(group, 0x4000), "LT", hide("overlay comments", "Remarks on Eskervale"))
        ds.add_new(Tag(group, 0x3000), "OW", hide("overlay data", "OVERLAYPENHURST!").encode())
    ds.add_new(Tag(0x5000, 0x0022), "LO", hide("curve description", "Curve Framlington"))
    icon = Dataset()
    icon.Rows = icon.Columns = 4
    icon.BitsAllocated, icon.SamplesPerPixel = 8, 1
    icon.PixelData = hide("icon", "ICONOFHAVERSHAM!").encode()
    ds.IconImageSequence = Sequence([icon])
    ds.PixelData = ds.PixelData + hide("after the pixels", "TRAILERSTROUDLEY").encode()
    ds.DataSetTrailingPadding = hide("trailing padding", "PADDINGWHITCROFT").encode()
    ds.preamble = hide("preamble", "PREAMBLE OF QUILLFEATHERSTON").encode().ljust(128, b"\0")
    meta = ds.file_meta
    meta.ImplementationVersionName = hide("implementation version", "QFIMPLVERS")
    meta.SourceApplicationEntityTitle = hide("source AE title", "AETQUILLMOOR")
    meta.PrivateInformationCreatorUID = hide("creator of private information", f"{ROOT}.246810.3")
    meta.PrivateInformation = hide("private information", "INFOLONGWATER!!!").encode()


def _contours(export: Export) -> Dataset:
    """Contours on the CT, with names and dates of their own."""
    hide = export.hide
    ct = f"{ROOT}.88120.404040"
    square = [(4.0, 4.0, 4.0), (40.0, 4.0, 4.0), (40.0, 40.0, 4.0), (4.0, 40.0, 4.0)]
    ds = structure_set(
        {1: [square]}, series=ct, frame=f"{ROOT}.717171.2", PatientName="Quillfeather^Rosalind",
        PatientID="MRN-77120934", PatientBirthDate=BIRTH, StudyDate=STUDY, StudyInstanceUID=f"{ROOT}.909090.1",
        SeriesInstanceUID=hide("series UID of contours", f"{ROOT}.3333.2"),
        SOPInstanceUID=hide("UID of contours", f"{ROOT}.3333.2.1"),
        StructureSetLabel=hide("StructureSetLabel", "Set Applegarth"), StructureSetDate=OTHER_DAY,
        StructureSetName=hide("StructureSetName", "Contours Rookhope"),
        OperatorsName=hide("planner", "Swinbrook^Jo", "name"),
    )  # fmt: skip
    roi = Dataset()
    roi.ROINumber, roi.ROIName = 1, hide("ROI name", "GTV Quillfeather left")
    roi.ROIDescription = hide("ROI description", "Drawn by Thornaby")
    ds.StructureSetROISequence = Sequence([roi])
    observation = Dataset()
    observation.ObservationNumber, observation.ReferencedROINumber = 1, 1
    observation.ROIObservationLabel, observation.ROIInterpreter = hide("ROI label", "Seen Corbridge"), "Thornaby^X"
    ds.RTROIObservationsSequence = Sequence([observation])
    return ds


def _character_sets(export: Export, root: Path) -> None:
    """Patients in UTF-8, Latin-1, ISO 2022 with Kanji, and in bytes that their declared set cannot hold."""
    people = {
        "ISO_IR 192": "Žižkovská^Šárka=李^小龍", "ISO_IR 100": "Müßiggänger^Jürgen",
        "\\ISO 2022 IR 87": "Yamadaro^Taroko=山田^太郎=やまだ^たろう",
    }  # fmt: skip
    for number, (charset, name) in enumerate(people.items(), start=1):
        export.hide(f"name in {charset.strip(chr(92))}", name, "name")
        patient = export.hide(
            "PatientID", f"CS-40{number}-ÆØÅ" if charset != "\\ISO 2022 IR 87" else f"CS-40{number}-JP"
        )
        for slice_number in range(SLICES):
            ds = make_header(
                "CT", slice_number, body(slice_number + number, "CT"), SpecificCharacterSet=charset.split("\\"),
                PatientName=name, PatientID=patient, StudyInstanceUID=f"{ROOT}.4{number}.1",
                SeriesInstanceUID=f"{ROOT}.4{number}.2", SOPInstanceUID=f"{ROOT}.4{number}.3.{slice_number}",
                StudyDescription=name.split("^")[0], PixelSpacing=[2.0, 2.0],
            )  # fmt: skip
            _save(ds, root / f"charset{number}" / f"{slice_number}.dcm")
    broken = "Gr\xfcnwald-Obermaier"
    export.hide("name in an undecodable set", broken)
    for path in sorted((root / "charset2").glob("*.dcm")):
        content = path.read_bytes().replace("Müßiggänger^Jürgen".encode("latin-1"), broken.encode("latin-1"))
        target = root / "charset4" / path.name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(
            content.replace(b"ISO_IR 100", b"ISO_IR 999").replace(f"{ROOT}.42".encode(), f"{ROOT}.47".encode())
        )


def _damaged(export: Export, folder: Path, root: Path) -> None:
    """Cut off, without pixels, with a wrong length, and no DICOM at all: each goes an error's way."""
    whole = sorted((folder / "CT").glob("*.dcm"))[0].read_bytes()
    place = root / export.hide("folder of damaged files", "Grievance_Quillfeather")
    place.mkdir()
    (place / "cut_in_header.dcm").write_bytes(whole[:700])
    (place / "cut_in_pixels.dcm").write_bytes(whole[:-2000].replace(b".404040.", b".404049."))
    (place / "noise.dcm").write_bytes(whole[:400] + bytes(range(256)) * 8 + whole[400:])
    text = export.hide("text file", "Letter about Mr Abernathy-Stokes")
    (place / export.hide("file name", "letter_Abernathy.txt")).write_text(text, encoding="utf-8")
    ds = dcmread(sorted((folder / "MR").glob("*.dcm"))[0])
    del ds.PixelData
    ds.SeriesInstanceUID = f"{ROOT}.616161"
    ds.save_as(place / "no_pixels.dcm", enforce_file_format=False)
    for number in range(SLICES):
        wrong = stuffed(export, "CT", number, f"{ROOT}.515151")
        wrong.ImagePositionPatient = ["0", "0", str([0, 2, 4, 60, 90][number])]
        _save(wrong, place / "uneven" / f"{number}.dcm")
    capture = stuffed(export, "CT", 0, f"{ROOT}.525252")
    capture.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    _save(capture, place / "page.dcm")


def _archive(export: Export, root: Path) -> None:
    """A zip whose members and comment carry names."""
    inner = export.hide("name of a zip member", "Kettlewhistle_Agnes")
    with zipfile.ZipFile(root / export.hide("name of a zip", "export_Kettlewhistle.zip"), "w") as archive:
        archive.comment = export.hide("comment of a zip", "for Professor Mandelsloh").encode()
        for number in range(SLICES):
            ds = make_header(
                "MR", number, body(number + 50, "MR"), PatientName="Kettlewhistle^Agnes",
                PatientID=export.hide("PatientID", "ZIP-86420"), SeriesInstanceUID=f"{ROOT}.99.1",
                StudyInstanceUID=f"{ROOT}.99", SOPInstanceUID=f"{ROOT}.99.1.{number}",
            )  # fmt: skip
            path = root / "member.tmp"
            _save(ds, path)
            archive.write(path, f"{inner}/{number}.dcm")
            path.unlink()


def _pixel_text(root: Path) -> None:
    """A series with a name in its pixels: no byte spells it, so it has to be suspected."""
    page = Image.new("1", (SIDE, SIDE), 0)
    ImageDraw.Draw(page).text((0, 1), "QUILLFEATHER", fill=1, font=ImageFont.load_default(10))
    for number in range(SLICES):
        stored = body(number + 80, "CT")
        stored[np.asarray(page)] = 4000
        ds = make_header(
            "CT", number, stored, PatientName="Quillfeather^Rosalind", PatientID="MRN-77120934",
            PixelSpacing=[2.0, 2.0], StudyInstanceUID=f"{ROOT}.909090.1", SeriesInstanceUID=f"{ROOT}.626262",
        )  # fmt: skip
        _save(ds, root / "marked" / f"{number}.dcm")


def _save(ds: Dataset, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=False)
