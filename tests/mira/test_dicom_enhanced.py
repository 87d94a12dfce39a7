"""Enhanced multi-frame CT, MR and PET: functional groups, units, stacks, echoes and time points."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from mira.dicom.reasons import Reason
from mira.dicom.scan import series_of
from mira.dicom.volume import read_series, read_volumes
from mira.tasks import Modality, Unit
from tests.mira.dicom_enhanced import enhanced, frame, item
from tests.mira.dicom_synthetic import make_header, pixels, write

SUV_PER_BQML = 74 * 1000 / (370e6 * 0.5 ** (3600 / 6586.2))


def stack(frames: list[Dataset]) -> np.ndarray:
    return np.stack([pixels(n) for n in range(len(frames))])


@pytest.mark.parametrize("kind", ["CT", "MR"])
def test_each_frame_has_its_own_rescale_and_place(tmp_path, kind):
    found = read_series(write(tmp_path, [enhanced(kind, 4)]))
    assert found.modality is Modality(kind)
    assert found.volume.spacing == pytest.approx((3, 1.5, 0.5))
    offset = -1000 if kind == "CT" else 0
    for n in range(4):
        expected = np.maximum(pixels(n).astype(float) * (n + 1) + offset, -1024 if kind == "CT" else -np.inf)
        np.testing.assert_array_equal(found.volume.voxels[n], expected.astype(np.float32))
    assert found.conversion.inputs["slope_lowest"] == 1
    assert found.conversion.inputs["slope_highest"] == 4


def test_frames_are_ordered_by_position(tmp_path):
    places = [2, 0, 3, 1]
    found = read_series(write(tmp_path, [enhanced("MR", [frame(n) for n in places])]))
    expected = np.stack([pixels(places.index(n)) for n in range(4)])
    np.testing.assert_array_equal(found.volume.voxels, expected.astype(np.float32))


def test_enhanced_pet_becomes_suv_by_its_own_attributes(tmp_path):
    found = read_series(write(tmp_path, [enhanced("PT", 4)]))
    assert found.unit is Unit.SUVBW
    assert found.suv_factor == pytest.approx(SUV_PER_BQML, rel=1e-12)
    for n in range(4):
        np.testing.assert_allclose(found.volume.voxels[n], pixels(n) * (n + 1) * SUV_PER_BQML, rtol=1e-6)
    assert found.conversion.inputs["seconds_injection_to_reference"] == 3600
    assert "2020" not in found.conversion.model_dump_json()
    assert series_of(write(tmp_path, [enhanced("PT", 4)]))[0].pixels == [4 * 20 * 24]


def test_enhanced_pet_agrees_with_the_same_scan_as_classic_images(tmp_path):
    classic = read_series(write(tmp_path / "a", [make_header("PT", n, RescaleSlope=n + 1) for n in range(4)]))
    modern = read_series(write(tmp_path / "b", [enhanced("PT", 4)]))
    np.testing.assert_array_equal(modern.volume.voxels, classic.volume.voxels)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [("{SUVbw}g/ml", Unit.SUVBW), ("{SUVlbm}g/ml", Reason.NOT_SUVBW), ("{counts}", Reason.PET_COUNTS)],
)
def test_enhanced_pet_unit_decides(tmp_path, unit, expected):
    groups = [frame(n, kind="PT") for n in range(3)]
    for group in groups:
        group.RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0].CodeValue = unit
    found = read_volumes(write(tmp_path, [enhanced("PT", groups)]))
    if isinstance(expected, Reason):
        assert [refusal.reason for refusal in found.refusals] == [expected]
    else:
        assert found.volumes[0].unit is expected
        assert found.volumes[0].suv_factor == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"DecayCorrectionDateTime": None}, "Decay Correction"),
        ({"AttenuationCorrected": "NO"}, "attenuation"),
        ({"DecayCorrected": "NO"}, "not decay-corrected"),
        ({"PatientWeight": None}, "weight"),
    ],
)
def test_enhanced_pet_without_an_input_stays_activity(tmp_path, changes, words):
    found = read_series(write(tmp_path, [enhanced("PT", 3, **changes)]))
    assert found.unit is Unit.BQML
    assert words in found.unit_refusal


def test_legacy_converted_pet_keeps_its_classic_attributes(tmp_path):
    groups = [frame(n, n + 1) for n in range(3)]
    shared = item(
        Units="BQML", DecayCorrection="START", CorrectedImage=["DECY", "ATTN"], SeriesDate="20200102",
        SeriesTime="100000", AcquisitionDate="20200102", AcquisitionTime="100000",
    )  # fmt: skip
    ds = enhanced("PT", groups, DecayCorrectionDateTime=None, DecayCorrected=None, AttenuationCorrected=None)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.128.1"
    ds.SharedFunctionalGroupsSequence[0].UnassignedSharedConvertedAttributesSequence = [shared]
    found = read_series(write(tmp_path, [ds]))
    assert found.unit is Unit.SUVBW
    assert found.suv_factor == pytest.approx(SUV_PER_BQML, rel=1e-12)


def test_time_points_and_echoes_in_one_object_become_volumes(tmp_path):
    groups = []
    for n in range(3):
        for time in (1, 2):
            for echo in (10.0, 20.0):
                group = frame(n, TemporalPositionIndex=time)
                group.MREchoSequence = [item(EffectiveEchoTime=echo)]
                groups.append(group)
    found = read_volumes(write(tmp_path, [enhanced("MR", groups, stack(groups))])).volumes
    assert len(found) == 4
    places = {(int(v.headers[0].TemporalPositionIndex), float(v.headers[0].EchoTime)): v for v in found}
    assert set(places) == {(1, 10), (1, 20), (2, 10), (2, 20)}
    np.testing.assert_array_equal(places[2, 10.0].volume.voxels[1], pixels(6).astype(np.float32))


def test_diffusion_directions_become_volumes(tmp_path):
    groups = []
    for n in range(3):
        for direction in (None, [1, 0, 0], [0, 1, 0]):
            group = frame(n)
            diffusion = item(DiffusionBValue=1000.0 if direction else 0.0)
            if direction:
                diffusion.DiffusionGradientDirectionSequence = [item(DiffusionGradientOrientation=direction)]
            group.MRDiffusionSequence = [diffusion]
            groups.append(group)
    found = read_volumes(write(tmp_path, [enhanced("MR", groups, stack(groups))])).volumes
    assert sorted(float(volume.headers[0].DiffusionBValue) for volume in found) == [0, 1000, 1000]
    assert {len(volume.headers) for volume in found} == {3}


def test_stacks_of_one_object_become_volumes(tmp_path):
    near = [frame(n, StackID="1") for n in range(3)]
    far = [frame(40 + n, StackID="2") for n in range(4)]
    turned = [frame(n, StackID="3") for n in range(3)]
    for number, group in enumerate([*near, *far, *turned]):
        cosines = [0, 1, 0, 0, 0, -1] if group in turned else [1, 0, 0, 0, 1, 0]
        group.PlaneOrientationSequence = [item(ImageOrientationPatient=cosines)]
        if number >= 7:
            group.PlanePositionSequence = [item(ImagePositionPatient=[3.0 * number, 0, 0])]
    groups = [*near, *far, *turned]
    found = read_volumes(write(tmp_path, [enhanced("CT", groups, stack(groups), orientation=None)]))
    assert sorted(len(volume.headers) for volume in found.volumes) == [3, 3, 4]
    assert not found.refusals


def test_phase_frames_are_left_out_and_counted_and_magnitude_frames_stay(tmp_path):
    groups = []
    for n in range(3):
        for component in ("MAGNITUDE", "PHASE"):
            group = frame(n)
            group.MRImageFrameTypeSequence = [item(ComplexImageComponent=component)]
            groups.append(group)
    files = write(tmp_path, [enhanced("MR", groups, stack(groups))])
    found = read_volumes(files)
    np.testing.assert_array_equal(found.volumes[0].volume.voxels[2], pixels(4).astype(np.float32))
    assert [(refusal.reason, refusal.slices) for refusal in found.refusals] == [(Reason.NOT_MAGNITUDE, 3)]
    assert found.left_out == {files[0]: 0.5}


def test_projections_among_the_frames_are_left_out(tmp_path):
    groups = [frame(n) for n in range(4)]
    groups[3].CTImageFrameTypeSequence = [item(VolumeBasedCalculationTechnique="MAX_IP")]
    found = read_volumes(write(tmp_path, [enhanced("CT", groups)]))
    assert found.volumes[0].volume.voxels.shape[0] == 3
    assert found.refusals[0].reason is Reason.REFORMATTED


def test_a_group_cannot_rename_the_object(tmp_path):
    groups = [frame(n) for n in range(3)]
    groups[0].ConversionSourceAttributesSequence = [item(SOPInstanceUID="1.2.3", PatientID="other")]
    found = read_series(write(tmp_path, [enhanced("CT", groups)]))
    assert len({header.SOPInstanceUID for header in found.headers}) == 1
    assert {header.PatientID for header in found.headers} == {"P-1"}


def test_frames_without_groups_are_refused(tmp_path):
    ds = enhanced("MR", 4)
    del ds.PerFrameFunctionalGroupsSequence
    found = read_volumes(write(tmp_path, [ds]))
    assert [refusal.reason for refusal in found.refusals] == [Reason.NO_GEOMETRY]
