"""Faithful volumes or a refusal with the reason: order, rescale, padding, splitting, geometry, transfer syntaxes."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID, JPEG2000Lossless, JPEGLSLossless, RLELossless

from mira.dicom.reasons import Reason, Refused
from mira.dicom.volume import read_series, read_volumes
from mira.tasks import Modality, Unit
from tests.bench_sites import BENCH
from tests.mira.dicom_synthetic import make_header, make_series, pixels, write


def reasons(files) -> list[Reason]:
    return [refusal.reason for refusal in read_volumes(files).refusals]


def test_slices_are_ordered_by_position_not_by_name_or_number(tmp_path):
    order = [2, 0, 3, 1]
    files = write(tmp_path, [make_header(number=n, InstanceNumber=9 - n) for n in order])
    found = read_series(files)
    assert found.modality is Modality.CT
    assert found.unit is Unit.HU
    expected = np.stack([pixels(n) for n in range(4)]).astype(np.float32) - 1024
    np.testing.assert_array_equal(found.volume.voxels, np.maximum(expected, -1024))
    assert found.files == [files[order.index(n)] for n in range(4)]
    assert [float(header.ImagePositionPatient[2]) for header in found.headers] == [0, 2, 4, 6]
    assert all("PixelData" not in header for header in found.headers)


def test_each_slice_has_its_own_rescale(tmp_path):
    files = write(
        tmp_path, [make_header("PT", n, RescaleSlope=f"{0.1 * (n + 1):.6f}", DecayCorrection="") for n in range(3)]
    )
    found = read_series(files)
    assert found.unit is Unit.BQML
    for n in range(3):
        np.testing.assert_array_equal(
            found.volume.voxels[n], (pixels(n) * float(f"{0.1 * (n + 1):.6f}")).astype(np.float32)
        )


@given(
    angles=st.tuples(*[st.floats(-3, 3)] * 3),
    origin=st.tuples(*[st.floats(-300, 300)] * 3),
    gap=st.floats(0.5, 8),
    flip=st.booleans(),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_affine_maps_every_pixel_to_where_the_headers_say(tmp_path_factory, angles, origin, gap, flip):
    rotation = np.eye(3)
    for axis, angle in enumerate(angles):
        turn = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[i, j], turn[j, i] = -np.sin(angle), np.sin(angle)
        rotation = rotation @ turn
    row, column, normal = rotation.T
    slices = []
    for n in range(3):
        position = np.array(origin) + (-n if flip else n) * gap * normal
        slices.append(
            make_header(
                "MR",
                n,
                ImageOrientationPatient=[f"{v:.10f}"[:16] for v in (*row, *column)],
                ImagePositionPatient=[f"{v:.10f}"[:16] for v in position],
            )
        )
    found = read_series(write(tmp_path_factory.mktemp("s"), slices))
    assert np.linalg.det(found.volume.affine) > 0
    for index, header in enumerate(found.headers):
        expected = np.array(header.ImagePositionPatient, float) + 7 * 0.5 * row + 5 * 1.5 * column
        np.testing.assert_allclose((found.volume.affine @ [7, 5, index, 1])[:3], expected, atol=1e-5)
    np.testing.assert_allclose(found.volume.spacing, (gap, 1.5, 0.5), rtol=1e-5)


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
def test_a_rescale_that_is_no_number_does_not_pass_for_none(tmp_path, keyword):
    headers = [make_header("MR", number) for number in range(4)]
    for header in headers:
        header.add_new(keyword, "LO", "2,5")
    with pytest.raises(Refused) as refusal:
        read_series(write(tmp_path, headers))
    assert refusal.value.reason is Reason.NO_RESCALE
    assert keyword in refusal.value.detail


@pytest.mark.parametrize(("padding", "representation"), [(-2000, 1), (63536, 1)])
def test_padding_becomes_air_with_a_warning(tmp_path, padding, representation):
    files = []
    for n in range(3):
        stored = pixels(n)
        stored[0, :5] = -2000
        ds = make_header(number=n, stored=stored)
        ds.add_new("PixelPaddingValue", "US" if padding > 0 else "SS", padding)
        files += write(tmp_path, [ds], f"s{n}")
    found = read_series(files)
    assert (found.volume.voxels[:, 0, :5] == -1024).all()
    assert "padding-set-to-air" in found.warnings
    assert found.volume.voxels.min() == -1024


def test_declared_padding_that_is_tissue_is_left_alone(tmp_path):
    stored = [pixels(n) for n in range(3)]
    for image in stored:
        image[3, 3] = 1024
    files = write(tmp_path, [make_header(number=n, stored=s, PixelPaddingValue=1024) for n, s in enumerate(stored)])
    found = read_series(files)
    assert (found.volume.voxels[:, 3, 3] == 0).all()
    assert "padding-value-is-tissue" in found.warnings


def test_negative_mr_and_unsigned_pixels(tmp_path):
    signed = read_series(
        write(tmp_path / "a", [make_header("MR", n, stored=pixels(n) - np.int16(500)) for n in range(3)])
    )
    np.testing.assert_array_equal(signed.volume.voxels[1], pixels(1).astype(np.float32) - 500)
    large = [np.full((20, 24), 60000 + n, np.uint16) for n in range(3)]
    unsigned = read_series(write(tmp_path / "b", [make_header("MR", n, stored=s) for n, s in enumerate(large)]))
    assert unsigned.volume.voxels.max() == 60002
    assert unsigned.mr_scale == pytest.approx(60002)


def test_two_orientations_become_two_volumes(tmp_path):
    axial = [make_header("MR", n) for n in range(3)]
    sagittal = [
        make_header("MR", n + 10, ImageOrientationPatient=[0, 1, 0, 0, 0, -1], ImagePositionPatient=[2.0 * n, 0, 0])
        for n in range(4)
    ]
    found = read_volumes(write(tmp_path, [*axial, *sagittal]))
    assert sorted(len(volume.headers) for volume in found.volumes) == [3, 4]
    assert not found.refusals
    with pytest.raises(Refused) as error:
        read_series(sorted(tmp_path.iterdir()))
    assert error.value.reason is Reason.SEVERAL_VOLUMES


def test_repeated_positions_split_by_echo(tmp_path):
    slices = [
        make_header(
            "MR",
            n,
            stored=pixels(n + 100 * e),
            EchoTime=10 * (e + 1),
            SOPInstanceUID=f"1.2.{e}.{n}",
            InstanceNumber=2 * n + e,
        )
        for n in range(3)
        for e in range(2)
    ]
    found = read_volumes(write(tmp_path, slices)).volumes
    assert [float(volume.headers[0].EchoTime) for volume in found] == [10, 20]
    np.testing.assert_array_equal(found[1].volume.voxels[2], pixels(102))


def test_repeated_positions_without_a_time_split_by_blocks_of_instance_numbers(tmp_path):
    slices = [
        make_header("MR", n, stored=pixels(n + 100 * p), SOPInstanceUID=f"1.2.{p}.{n}", InstanceNumber=60 * p + n)
        for n in range(3)
        for p in range(3)
    ]
    found = read_volumes(write(tmp_path, slices)).volumes
    assert len(found) == 3
    np.testing.assert_array_equal(found[2].volume.voxels[0], pixels(200))


def test_repeated_positions_that_nothing_tells_apart_are_refused(tmp_path):
    slices = [
        make_header("MR", n, stored=pixels(n + 100 * p), SOPInstanceUID=f"1.2.{p}.{n}", InstanceNumber=1)
        for n in range(3)
        for p in range(2)
    ]
    assert reasons(write(tmp_path, slices)) == [Reason.REPEATED]


def test_copies_of_a_slice_are_left_out(tmp_path):
    files = make_series(tmp_path, slices=4)
    copy = write(tmp_path / "again", [dcmread(files[1])])
    found = read_volumes([*files, *copy])
    assert len(found.duplicates) == 1
    assert found.volumes[0].volume.voxels.shape[0] == 4
    assert "duplicate-slices-dropped" in found.volumes[0].warnings


def test_one_instance_uid_on_all_slices_loses_nothing(tmp_path):
    found = read_series(make_series(tmp_path, SOPInstanceUID="1.2.3", PatientID=""))
    assert found.volume.voxels.shape[0] == 4
    assert {"duplicate-sop-instance-uid", "missing-patient-id"} <= set(found.warnings)


def shifted(n: int) -> list[float]:
    return [-10, -20 + 0.5 * n, 2.0 * n]


SPOILT = {
    Reason.UNEVEN: lambda n: make_header(number=n, ImagePositionPatient=[0, 0, [0, 2, 4, 8][n]]),
    Reason.GANTRY_TILT: lambda n: make_header(number=n, ImagePositionPatient=shifted(n)),
    Reason.MIXED_SIZES: lambda n: make_header(number=n, stored=pixels(n, (20, 24 + n % 2))),
    Reason.NO_GEOMETRY: lambda n: make_header(number=n, PixelSpacing=None),
    Reason.BAD_GEOMETRY: lambda n: make_header(number=n, ImageOrientationPatient=[1, 0, 0, 1, 0, 0]),
    Reason.NO_RESCALE: lambda n: make_header(number=n, RescaleSlope=None),
    Reason.NOT_HU: lambda n: make_header(number=n, RescaleType="Z_EFF"),
    Reason.EMPTY_IMAGE: lambda n: make_header(number=n, stored=np.zeros((20, 24), np.int16)),
    Reason.NO_PET_UNIT: lambda n: make_header("PT", n, Units=None),
    Reason.NOT_SUVBW: lambda n: make_header("PT", n, Units="GML", SUVType="LBM"),
    Reason.LOCALISER: lambda n: make_header(number=n, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    Reason.REFORMATTED: lambda n: make_header(number=n, ImageType=["DERIVED", "SECONDARY", "MPR"]),
    Reason.PARAMETRIC: lambda n: make_header("MR", n, ImageType=["DERIVED", "PRIMARY", "DIFFUSION", "ADC"]),
    Reason.NOT_MAGNITUDE: lambda n: make_header("MR", n, ImageType=["ORIGINAL", "PRIMARY", "P"]),
    Reason.BURNED_IN: lambda n: make_header(number=n, BurnedInAnnotation="YES"),
    Reason.COLOUR: lambda n: make_header(number=n, PhotometricInterpretation="RGB", SamplesPerPixel=3),
    Reason.ALREADY_RESTORED: lambda n: make_header(number=n, DerivationDescription="Restored by MIRA-Net 0.1"),
    Reason.OTHER_MODALITY: lambda n: make_header(number=n, SOPClassUID="1.2.840.10008.5.1.4.1.1.6.1"),
    Reason.SECONDARY_CAPTURE: lambda n: make_header(number=n, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"),
}


@pytest.mark.parametrize("reason", SPOILT)
def test_what_is_no_faithful_volume_is_refused_with_its_reason(tmp_path, reason):
    files = write(tmp_path, [SPOILT[reason](n) for n in range(4)])
    found = read_volumes(files)
    assert not found.volumes
    assert {refusal.reason for refusal in found.refusals} == {reason}
    assert sorted(path for refusal in found.refusals for path in refusal.files) == files
    with pytest.raises(Refused, match=re.escape(reason.text)):
        read_series(files)


def test_two_slices_are_too_few(tmp_path):
    assert reasons(make_series(tmp_path, slices=2)) == [Reason.TOO_FEW]


def test_cut_off_file_is_refused_and_its_gap_noticed(tmp_path):
    files = make_series(tmp_path, slices=5)
    files[2].write_bytes(files[2].read_bytes()[:-200])
    assert set(reasons(files)) == {Reason.UNDECODABLE, Reason.UNEVEN}


def test_invalid_values_survive(tmp_path):
    files = make_series(tmp_path)
    for path in files:  # written over in the file, since pydicom would not write them
        content = path.read_bytes()
        assert content.count(b"20200102") == 3
        path.write_bytes(content.replace(b"20200102", b"***     ").replace(b"Br38f ", b"\xff\xfe\x01  \x00"))
    found = read_series(files)
    assert found.volume.voxels.shape == (4, 20, 24)
    assert "invalid-date" in found.warnings


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless, JPEGLSLossless])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_lossless_transfer_syntaxes_give_the_same_voxels(tmp_path, syntax, dtype):
    shift = 500 if dtype is np.int16 else 0
    raw = [make_header(number=n, stored=(pixels(n, (64, 80)) - shift).astype(dtype)) for n in range(3)]
    plain = read_series(write(tmp_path / "raw", raw))
    for ds in raw:
        ds.compress(UID(syntax), generate_instance_uid=False)
    packed = read_series(write(tmp_path / "packed", raw))
    np.testing.assert_array_equal(packed.volume.voxels, plain.volume.voxels)
    assert packed.source_sha256 == plain.source_sha256


def enhanced_mr(frames: int) -> Dataset:
    stored = np.stack([pixels(n) for n in range(frames)])
    ds = make_header("MR", 0, stored=stored[0], SOPClassUID="1.2.840.10008.5.1.4.1.1.4.1", NumberOfFrames=frames)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"):
        delattr(ds, keyword)
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, orientation.ImageOrientationPatient = [1.5, 0.5], [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    ds.SharedFunctionalGroupsSequence = [shared]
    ds.PerFrameFunctionalGroupsSequence = []
    for n in range(frames):
        group, position, transform = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, -3.0 * n]
        transform.RescaleSlope, transform.RescaleIntercept = n + 1, 5
        group.PlanePositionSequence, group.PixelValueTransformationSequence = [position], [transform]
        ds.PerFrameFunctionalGroupsSequence.append(group)
    ds.PixelData = stored.tobytes()
    return ds


def test_enhanced_multi_frame_is_read_by_its_functional_groups(tmp_path):
    found = read_series(write(tmp_path, [enhanced_mr(4)]))
    assert found.volume.voxels.shape == (4, 20, 24)
    np.testing.assert_array_equal(found.volume.voxels[0], pixels(3).astype(np.float32) * 4 + 5)
    assert found.volume.spacing == pytest.approx((3, 1.5, 0.5))
    assert len(found.headers) == 4
    assert found.headers[0].RescaleSlope == 4


@pytest.mark.bench
@pytest.mark.skipif(not BENCH.is_dir(), reason="the real scans (MIRA_BENCH) are not here")
def test_real_transfer_syntaxes_agree():
    folder = BENCH / "tricky" / "dicom2nifti"
    packed = [read_series((folder / name).iterdir()) for name in ("ts_rle", "ts_j2k", "ts_jpegls", "ts_jpeg_lossless")]
    assert len({found.source_sha256 for found in packed}) == 1
    for found in packed:
        np.testing.assert_array_equal(found.volume.voxels, packed[0].volume.voxels)


@pytest.mark.bench
@pytest.mark.skipif(not BENCH.is_dir(), reason="the real scans (MIRA_BENCH) are not here")
@pytest.mark.parametrize(
    ("folder", "reason"),
    [
        ("dicom2nifti/ct_gantry_tilt", Reason.GANTRY_TILT),
        ("dicom2nifti/ct_uneven_increment", Reason.UNEVEN),
        ("dicom2nifti/mixed_orientation", Reason.TOO_FEW),
        ("dicom2nifti/too_few_slices", Reason.TOO_FEW),
        ("dce_same_position", Reason.TOO_FEW),
        ("pet_without_units_simulated", Reason.NO_PET_UNIT),
        ("ge_hispeed_tilt_uneven", Reason.UNEVEN),
    ],
)
def test_real_tricky_series_are_refused_for_the_right_reason(folder, reason):
    found = read_volumes((BENCH / "tricky" / folder).iterdir())
    assert not found.volumes
    assert {refusal.reason for refusal in found.refusals} == {reason}


def test_reference_page_explains_every_reason():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "dicom-input.md").read_text(encoding="utf-8")
    missing = [reason for reason in Reason if f"| `{reason.value}` | {reason.text} |" not in page]
    assert not missing
