"""De-identified objects: the profile's actions, options, references that still lead somewhere, and odd input."""

import argparse
import io
import json
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag
from pydicom.uid import UID, RLELossless

from mira.dicom import clean_values as clean
from mira.dicom.confidentiality import BASIC, BIRTH, DEFAULT, Action, Retain, action
from mira.dicom.deidentify import Deidentifier, Pseudonyms
from mira.dicom.deidentify_files import deidentify_tree
from mira.dicom.deidentify_verb import add_deidentify
from mira.dicom.headers import tolerant
from mira.dicom.volume import read_series
from mira.errors import ConfigurationError, DataRejected
from tests.dicom_checks import assert_valid_dicom
from tests.mira.dicom_synthetic import make_header, make_series, pet_drug, structure_set, write

NAMES = Pseudonyms(b"a key that is long enough")
NOTHING = frozenset[Retain]()
NEEDED = {int(Tag(k)) for k in ("PatientName", "PatientID", "StudyDate", "ReferencedImageSequence")} | {0x00020003}


def copy(source: Dataset, *options: Retain, default: bool = False) -> Dataset:
    with tolerant():
        stored = source.pixel_array if "PixelData" in source else None
        made = Deidentifier(NAMES, DEFAULT if default else frozenset(options))(source, stored)
        stream = io.BytesIO()
        made.save_as(stream, enforce_file_format=True)
    stream.seek(0)
    return dcmread(stream)


def test_the_table_is_that_of_the_standard():
    """Rows that a reader can look up, and the size of the edition: 617 single attributes besides the groups."""
    assert len(BASIC) == 617
    rows = {
        "PatientName": "Z", "PatientID": "Z/D", "PatientBirthDate": "Z", "StudyInstanceUID": "U", "StudyDate": "Z",
        "SeriesDate": "X/D", "AcquisitionDate": "X/Z", "ContentDate": "Z/D", "DeviceSerialNumber": "X/Z/D",
        "ReferencedImageSequence": "X/Z/U*", "ContentSequence": "D", "IconImageSequence": "X", "FrameComments": "X",
        "RadiopharmaceuticalStartTime": "X", "ROIName": "Z", "TrackingUID": "U", "ProtocolName": "X/D",
    }  # fmt: skip
    assert {name: BASIC[Tag(name)] for name in rows} == rows
    assert "SliceThickness" not in {name for name in rows if Tag(name) in BASIC}
    undated = {tag for tag in BASIC if dictionary_VR(tag) in ("DA", "TM", "DT")} - BIRTH
    assert all(action(Tag(tag), dictionary_VR(tag), frozenset({Retain.DATES})) is Action.SHIFT for tag in undated)


@pytest.mark.parametrize("tag", [0x50000022, 0x50FE3000, 0x60003000, 0x60020022, 0x601E1500])
def test_curves_and_overlays_go_whatever_is_retained(tag):
    assert action(Tag(tag), "LO", frozenset(Retain)) is Action.REMOVE


def test_the_basic_profile_alone_leaves_no_date_device_or_characteristic():
    made = copy(
        make_header("PT", PatientAge="050Y", PatientSex="F", StationName="S", DeviceSerialNumber="123", EthnicGroup="x")
    )
    assert made.StudyDate == made.AcquisitionDate == made.PatientSex == ""
    assert made.SeriesDate == "19000101"
    assert "PatientWeight" not in made
    assert "PatientAge" not in made
    assert made.StationName == made.DeviceSerialNumber == "ANONYMIZED"
    assert "RadiopharmaceuticalStartTime" not in made.RadiopharmaceuticalInformationSequence[0]
    assert made.LongitudinalTemporalInformationModified == "REMOVED"
    assert [item.CodeValue for item in made.DeidentificationMethodCodeSequence] == ["113100"]


def test_every_option_keeps_its_own_and_is_declared():
    source = make_header(
        "MR", PatientAge="050Y", PatientSex="F", PatientSize="1.7", StationName="MR3", DeviceSerialNumber="123",
        SeriesDescription="T1 axial of Mrs Doe 12345", FrameOfReferenceUID="1.2.3.4",
    )  # fmt: skip
    made = copy(source, Retain.DEVICE, Retain.CHARACTERISTICS, Retain.DESCRIPTORS, Retain.UIDS)
    assert (made.StationName, made.DeviceSerialNumber) == ("MR3", "123")
    assert (made.PatientAge, made.PatientSex, made.PatientSize) == ("050Y", "F", 1.7)
    assert made.SeriesDescription == "T1 axial"
    assert made.FrameOfReferenceUID == "1.2.3.4"
    assert made.SOPInstanceUID == made.file_meta.MediaStorageSOPInstanceUID == source.SOPInstanceUID
    codes = {item.CodeValue for item in made.DeidentificationMethodCodeSequence}
    assert codes == {"113100", "113105", "113108", "113109", "113110"}
    assert made.PatientIdentityRemoved == "YES"
    assert all(len(text) <= 64 for text in made.DeidentificationMethod)


def test_suv_is_the_same_before_and_after_also_across_midnight(tmp_path):
    changes = {
        "SeriesTime": "001500", "AcquisitionTime": "001500.5", "PatientSex": "F", "PatientSize": "1.7",
        "RadiopharmaceuticalInformationSequence": [
            pet_drug(RadiopharmaceuticalStartTime="233000", RadiopharmaceuticalStartDateTime="20200101233000.25+0100")
        ],
    }  # fmt: skip
    before = read_series(make_series(tmp_path / "in", "PT", **changes))
    outcome = deidentify_tree(tmp_path / "in", tmp_path / "out", Deidentifier(NAMES))
    assert outcome.written == 4
    after = read_series(sorted((tmp_path / "out").rglob("*.dcm")))
    assert before.suv_factor == after.suv_factor != 1.0
    assert before.unit is after.unit
    np.testing.assert_array_equal(before.volume.voxels, after.volume.voxels)
    np.testing.assert_array_equal(before.volume.affine, after.volume.affine)
    assert after.headers[0].PatientSize == 1.7
    assert after.headers[0].StudyDate != "20200102"


def test_dates_of_a_patient_move_together_and_those_of_another_differently():
    first = copy(make_header("CT", StudyDate="20200102"), Retain.DATES)
    later = copy(make_header("CT", StudyDate="20200301", StudyInstanceUID="1.2.9"), Retain.DATES)
    other = copy(make_header("CT", StudyDate="20200102", PatientID="P-2"), Retain.DATES)
    days = [np.datetime64(f"{d[:4]}-{d[4:6]}-{d[6:]}") for d in (first.StudyDate, later.StudyDate)]
    assert (days[1] - days[0]).astype(int) == 59
    assert other.StudyDate != first.StudyDate
    assert first.StudyTime == "095900"
    assert first.LongitudinalTemporalInformationModified == "MODIFIED"


def test_uids_stay_consistent_over_files_references_and_sequences():
    image = copy(make_header("CT", 2))
    contours = structure_set({1: [[(1, 2, 4), (3, 2, 4), (3, 5, 4)]]})
    reference = Dataset()
    reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", image_uid(2)
    contours.ROIContourSequence[0].ContourSequence[0].ContourImageSequence = Sequence([reference])
    made = copy(contours)
    frame = made.ReferencedFrameOfReferenceSequence[0]
    series = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    contour = made.ROIContourSequence[0].ContourSequence[0]
    assert frame.FrameOfReferenceUID == image.FrameOfReferenceUID
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    assert contour.ContourImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID
    assert contour.ContourImageSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.2"
    assert [float(value) for value in contour.ContourData] == [1, 2, 4, 3, 2, 4, 3, 5, 4]
    assert made.StudyInstanceUID == image.StudyInstanceUID
    for uid in (made.StudyInstanceUID, image.SOPInstanceUID, frame.FrameOfReferenceUID):
        assert UID(uid).is_valid
        assert uid.startswith("2.25.")


def image_uid(number: int) -> str:
    return str(make_header("CT", number).SOPInstanceUID)


def test_runs_give_the_same_bytes_and_another_key_other_names(tmp_path):
    make_series(tmp_path / "in", "CT")
    for name, key in (("a", b"key number one, long"), ("b", b"key number one, long"), ("c", b"key number two, long")):
        deidentify_tree(tmp_path / "in", tmp_path / name, Deidentifier(Pseudonyms(key)))
    files = {n: {p.relative_to(tmp_path / n): p.read_bytes() for p in (tmp_path / n).rglob("*.dcm")} for n in "abc"}
    assert files["a"] == files["b"]
    assert len(files["a"]) == 4
    assert not set(files["a"]) & set(files["c"])


def test_private_attributes_pass_by_creator_element_and_kind_only():
    source = make_header("PT")
    philips = source.private_block(0x7053, "Philips PET Private Group", create=True)
    philips.add_new(0x00, "DS", "0.000123")
    philips.add_new(0x09, "LO", "Doe^Jane")
    philips.add_new(0x11, "DS", "5")
    stranger = source.private_block(0x0019, "SOMEBODY", create=True)
    stranger.add_new(0x0C, "IS", "800")
    siemens = source.private_block(0x0019, "SIEMENS MR HEADER", create=True)
    siemens.add_new(0x0C, "IS", "1000")
    ge = source.private_block(0x0009, "GEMS_PETD_01", create=True)
    ge.add_new(0x0D, "DT", "20200102095500.00")
    made = copy(source, default=True)
    private = {element.tag: element.value for element in made if element.tag.is_private and element.tag.element > 0xFF}
    assert private[Tag(0x7053, 0x1000)] == 0.000123
    assert private[Tag(0x0019, 0x110C)] == 1000
    assert private[Tag(0x0009, 0x100D)][8:] == "095500.00"
    assert private[Tag(0x0009, 0x100D)][:8] == made.StudyDate
    assert len(private) == 3
    assert not [element for element in copy(source) if element.tag.is_private]


def test_pictures_within_the_picture_and_its_edges_are_gone():
    stored = np.full((20, 24), 100, dtype=np.uint16)
    stored[3, 4] |= 1 << 14  # an overlay in an unused bit
    source = make_header("CT", stored=stored, BitsStored=12, HighBit=11)
    source.add_new(Tag(0x6000, 0x0102), "US", 14)
    source.add_new(Tag(0x6000, 0x0100), "US", 16)
    source.PixelData = source.PixelData + b"Jane Doe was here!!!"
    icon = Dataset()
    icon.Rows = 2
    source.IconImageSequence = Sequence([icon])
    source.preamble = b"Jane Doe".ljust(128, b"\0")
    with tolerant():
        made = copy(source)
    assert (made.pixel_array == 100).all()
    assert len(made.PixelData) == 20 * 24 * 2
    assert made.preamble == b"\0" * 128
    assert "IconImageSequence" not in made
    assert not [tag for tag in list(made.keys()) if tag.group >> 8 in (0x50, 0x60)]


def test_invalid_values_are_survived(tmp_path):
    source = make_header(
        "CT", StudyDate="***", SeriesDate="20201332", AcquisitionTime="99", PatientAge="old", PatientName="\udc80Jane",
        SpecificCharacterSet="ISO_IR 4711", SeriesNumber=None, WindowCenter=None, StudyInstanceUID="not a uid!" * 9,
    )  # fmt: skip
    source.add_new(Tag("WindowCenter"), "LO", "of Jane")
    source.add_new(Tag("KVP"), "DS", None)
    source.add_new(Tag(0x0018, 0x9999), "UN", b"Jane")
    made = copy(source, *Retain)
    assert "StudyDate" not in made or made.StudyDate == ""
    assert "SeriesDate" not in made
    assert "AcquisitionTime" not in made
    assert made.get("PatientAge") in (None, "")
    assert made.get("WindowCenter") in (None, "")
    assert Tag(0x0018, 0x9999) not in made
    assert UID(made.StudyInstanceUID).is_valid
    assert "SpecificCharacterSet" not in made


@pytest.mark.parametrize(("part", "expected"), [("CHEST", "NO"), ("HEAD", "YES"), (None, "YES")])
def test_faces_are_declared_where_they_may_be(part, expected):
    assert copy(make_header("CT", BodyPartExamined=part)).RecognizableVisualFeatures == expected


def test_burned_in_text_is_not_passed_on_unless_somebody_vouches(tmp_path):
    from tests.mira.test_dicom_burned_in import trunk
    from tests.mira.test_dicom_burned_in import write as text

    planes = [text(trunk(n), 2500).clip(-1024, 3000) for n in range(4)]
    write(tmp_path / "in", [make_header("CT", n, (p + 1024).astype(np.int16)) for n, p in enumerate(planes)])
    stated = [make_header("CT", n, SeriesInstanceUID="1.2.5", BurnedInAnnotation="YES") for n in range(3)]
    write(tmp_path / "in" / "stated", stated)
    page = make_header("CT", 0, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", SeriesInstanceUID="1.2.6")
    write(tmp_path / "in" / "page", [page])
    refused = deidentify_tree(tmp_path / "in", tmp_path / "out", Deidentifier(NAMES))
    assert refused.reasons == {"burned-in-text": 7, "secondary-capture": 1}
    assert refused.written == 0
    vouched = deidentify_tree(tmp_path / "in", tmp_path / "out", Deidentifier(NAMES), confirmed=True)
    assert vouched.reasons == {"burned-in-text": 3, "secondary-capture": 1}
    assert vouched.written == 4
    report = json.loads((tmp_path / "out" / "deidentification.json").read_text())
    assert [len(item["content"]) for item in report["refused"]] == [12] * 4


def test_a_header_that_claims_a_huge_image_takes_no_memory(tmp_path):
    image = make_header("CT", 0, Rows=30000, Columns=30000)
    image.file_meta.TransferSyntaxUID = RLELossless
    segment = b"\x81\x00" * 200
    places = [2, 64, 64 + len(segment)]
    head = b"".join(place.to_bytes(4, "little") for place in places).ljust(64, b"\0")
    image.PixelData = encapsulate([head + segment + segment])
    image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
    write(tmp_path / "in", [image])
    tracemalloc.start()
    outcome = deidentify_tree(tmp_path / "in", tmp_path / "out", Deidentifier(NAMES))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome.reasons == {"undecodable": 1}
    assert most < 50_000_000


def test_copies_are_valid_dicom(tmp_path):
    make_series(
        tmp_path / "in", "CT", PositionReferenceIndicator="", PatientPosition="HFS", BodyPartExamined="CHEST",
        AcquisitionNumber="1",
    )  # fmt: skip
    deidentify_tree(tmp_path / "in", tmp_path / "out", Deidentifier(NAMES))
    assert_valid_dicom(*sorted((tmp_path / "out").rglob("*.dcm")))


@settings(max_examples=200, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    tag=st.sampled_from(
        [*sorted(set(BASIC) - NEEDED), *(Tag(k) for k in ("ImageType", "ScanOptions", "ConvolutionKernel", "EchoTime"))]
    ),
    value=st.sampled_from(
        [b"JANE", b"Jane Doe", b"20200102", b"P-1\\DOE", b"*" * 70, b"\xff", b"1.2.3", b"\x1b$B;3", b""]
    ),
    vr=st.sampled_from(["LO", "CS", "DA", "UN", "PN", "IS", "UT", "US", "FD"]),
    retain=st.sampled_from([NOTHING, DEFAULT, frozenset({*Retain} - {Retain.UIDS})]),
)
def test_no_name_id_or_date_comes_through_any_attribute(tag, value, vr, retain):
    source = make_header("CT")
    inner = Dataset()
    source.add_new(0x00081140, "SQ", Sequence([inner]))
    for place in (source, inner):
        place[Tag(tag)] = RawDataElement(Tag(tag), vr, len(value), value, 0, False, True)
    with tolerant():
        made = Deidentifier(NAMES, retain)(source, source.pixel_array)
        said = made.to_json(bulk_data_threshold=1, bulk_data_element_handler=lambda element: "").upper()
    for secret in ("JANE", "DOE", "20200102", '"P-1"'):
        assert secret not in said


@pytest.mark.parametrize(("value", "expected"), [(b"1\\2", [1, 2]), (b"P-1\\DOE", None), (b"1\\DOE", None)])
def test_of_numbers_that_are_none_in_part_nothing_stays(value, expected):
    source = make_header("MR")
    tag = Tag("EchoTime")
    source[tag] = RawDataElement(tag, "DS", len(value), value, 0, False, True)
    with tolerant():
        made = Deidentifier(NAMES, DEFAULT)(source, source.pixel_array)
    assert made[tag].value == expected
    made.to_json()  # a blank among numbers cannot be written


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("20200301", "20200229"),
        ("2020.03.01", "20200229"),
        ("2020-03-01", "20200229"),
        ("***", None),
        ("20200230", None),
    ],
)
def test_dates_are_moved_over_months_and_leap_days(value, expected):
    assert clean.shifted_date(value, 1) == expected


def test_the_oldest_are_ninety():
    assert [clean.capped_age(age) for age in ("089Y", "090Y", "104Y", "006M", "old")] == [
        "089Y",
        "090Y",
        "090Y",
        "006M",
        None,
    ]


def test_numbers_that_are_identifiers_do_not_pass():
    coded = clean.Coded(make_header("CT", PatientID="77120934"))
    assert coded.number("77120934", "IS") is None
    assert coded.number("512", "IS") == "512"
    assert coded.number("-0.00000000000000012345", "DS") is not None
    assert len(coded.number("-250.48828125000000001", "DS")) <= 16
    assert coded.number("of Jane", "DS") is None


def command(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_deidentify(parser.add_subparsers())
    parsed = parser.parse_args(["deidentify", *arguments])
    return parsed.run(parsed)


def test_the_command_says_what_it_wrote_and_refuses_wrong_use(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "0123456789abcdef")
    source, out = tmp_path / "in", tmp_path / "out"
    make_series(source / "Doe_Jane", "CT")
    (source / "letter_Doe.txt").write_text("Dear Jane Doe")
    assert command(str(source), "--out", str(out), "--retain", "none", "--json") == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["files"], said["written"], said["refused"], said["retained"]) == (5, 4, {"not-dicom": 1}, [])
    assert "doe" not in (out / "deidentification.json").read_text().lower()
    for wrong in (["--out", str(source / "inside")], ["--out", str(out), "--retain", "none", "dates"]):
        with pytest.raises(ConfigurationError):
            command(str(source), *wrong)
    with pytest.raises(DataRejected, match="Nothing was written"):
        command(str(source / "letter_Doe.txt"), "--out", str(out))
