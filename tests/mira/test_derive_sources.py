"""Derived series of odd sources: attributes that cannot be read or are missing, time points of a dynamic PET."""

import pytest
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from mira.dicom.derive import write_derived
from mira.dicom.volume import read_series, read_volumes
from mira.errors import DataRejected
from tests.mira.dicom_enhanced import enhanced
from tests.mira.dicom_synthetic import make_header, pixels, write
from tests.mira.test_derive import PURPOSE, SIZE, source_of


def odd(dataset, keyword, vr, value):
    """Set the bytes of an attribute, whether they are a value of its kind or not."""
    tag = Tag(keyword)
    dataset._dict[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("enhanced_source", [False, True])
def test_attributes_whose_bytes_are_no_value_of_theirs_are_left_out(tmp_path, modality, enhanced_source):
    path = tmp_path / "in" / "f.dcm"
    if enhanced_source:
        path.parent.mkdir()
        enhanced(modality, 4).save_as(path, enforce_file_format=False)
        files = [path]
    else:
        headers = [make_header(modality, n, pixels(n, SIZE), PatientAge="050Y") for n in range(4)]
        files = write(tmp_path / "in", headers)
    for file in files:
        dataset = dcmread(file)
        odd(dataset, "ExposureInmAs", "FD", b"DOE")
        odd(dataset, "HighBit", "US", b"\1\0\2")
        odd(dataset, "LargestImagePixelValue", "US", b"\1")
        dataset.save_as(file)
    source = read_series(files)
    inner = Dataset()
    inner.CodeMeaning = "x"
    odd(inner, "LargestImagePixelValue", "US", b"\1")
    for header in source.headers:
        header.ProcedureCodeSequence = [inner]
    written = dcmread(write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)[0])
    assert "ExposureInmAs" not in written
    assert written.HighBit == 15
    assert [element.keyword for element in written.ProcedureCodeSequence[0]] == ["CodeMeaning"]
    assert written.PatientName == "Doe^Jane"


@pytest.mark.parametrize("modality", ["CT", "PT", "MR"])
def test_a_source_without_modality_gives_a_series_with_one(tmp_path, modality):
    source = source_of(tmp_path / "in", modality, Modality=None)
    assert dcmread(write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)[0]).Modality == modality


def dynamic(folder, points, **changes):
    """A PET of four slices at several time points, as one series."""
    headers = []
    for number in range(4 * points):
        point, place = divmod(number, 4)
        own = {"FrameReferenceTime": str(1000 * (point + 1)), "AcquisitionTime": f"10{point}000"}
        own |= {"InstanceNumber": number + 1, "ImageIndex": number + 1, "SOPInstanceUID": f"1.2.9.{number + 1}"}
        own |= {"NumberOfTimeSlices": points, "NumberOfSlices": 4, "SeriesType": ["DYNAMIC", "IMAGE"]}
        headers.append(make_header("PT", place, pixels(number, SIZE), **(own | changes)))
    return sorted(read_volumes(write(folder, headers)).volumes, key=lambda one: one.headers[0].InstanceNumber)


@pytest.mark.parametrize("changes", [{}, {"NumberOfTimeSlices": None}, {"ImageIndex": None}])
def test_a_time_point_of_a_dynamic_pet_is_a_static_series(tmp_path, changes):
    volumes = dynamic(tmp_path / "in", 2, **changes)
    assert len(volumes) == 2
    for number, source in enumerate(volumes):
        files = write_derived(source, source.volume.voxels, tmp_path / f"out{number}", PURPOSE)
        for place, header in enumerate(map(dcmread, files)):
            assert list(header.SeriesType) == ["STATIC", "IMAGE"]
            assert "NumberOfTimeSlices" not in header
            assert header.get("ImageIndex") == (None if "ImageIndex" in changes else place + 1)
            assert header.FrameReferenceTime == 1000 * (number + 1)
            assert header.NumberOfSlices == 4


def test_a_dynamic_pet_of_one_time_point_and_a_gated_one_stay_what_they_are(tmp_path):
    (source,) = dynamic(tmp_path / "in", 1)
    written = dcmread(write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)[0])
    assert (written.SeriesType[0], written.NumberOfTimeSlices) == ("DYNAMIC", 1)
    (source,) = dynamic(tmp_path / "gated", 1, SeriesType=["GATED", "IMAGE"], NumberOfTimeSlices=None)
    assert dcmread(write_derived(source, source.volume.voxels, tmp_path / "g", PURPOSE)[0]).SeriesType[0] == "GATED"


def test_a_source_without_sop_class_is_refused_as_that(tmp_path):
    source = source_of(tmp_path / "in")
    for header in source.headers:
        del header.SOPClassUID, header.file_meta.MediaStorageSOPClassUID
    with pytest.raises(DataRejected, match="do not say of which SOP class"):
        write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)
