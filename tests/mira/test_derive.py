"""Derived series: what is kept, what is new, what is gone, and that no value is lost to rounding."""

import os
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset

from mira.dicom import derive
from mira.dicom.derive import restored_by, simulated_by, write_derived
from mira.dicom.reasons import Reason, Refused
from mira.dicom.stored import encode
from mira.dicom.volume import read_series
from mira.errors import DataRejected
from mira.tasks import Unit
from tests.mira.dicom_synthetic import make_header, pixels, write

SIZE = (40, 36)
PURPOSE = restored_by("mira_net", "4")


def source_of(folder, modality="CT", slices=4, **changes):
    stored = [pixels(number, SIZE) for number in range(slices)]
    return read_series(write(folder, [make_header(modality, n, stored[n], **changes) for n in range(slices)]))


def decode(path, suv_factor=1.0):
    dataset = dcmread(path)
    slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
    return (dataset.pixel_array * slope + intercept) * suv_factor


@pytest.mark.parametrize(("slices", "last"), [(9_999, "9999.dcm"), (10_001, "10001.dcm")])
def test_names_are_in_slice_order_however_many_there_are(tmp_path, monkeypatch, slices, last):
    class Slice:
        def __init__(self, number):
            self.number = number

        def save_as(self, path, **_):
            path.write_text(str(self.number))

    monkeypatch.setattr(derive, "_derive", lambda header, values, purpose, uids, number, moment: Slice(number))
    monkeypatch.setattr(derive, "_check_geometry", lambda *_: None)
    source = SimpleNamespace(headers=[Dataset()] * slices)
    files = derive.write_series(source, [None] * slices, tmp_path / "out", PURPOSE)
    assert [int(path.read_text()) for path in files] == list(range(1, slices + 1))
    assert files == sorted(files)
    assert files[-1].name == last


@pytest.mark.parametrize("modality", ["CT", "PT", "MR"])
def test_identity_facts_of_a_derived_slice(tmp_path, modality):
    source = source_of(tmp_path / "in", modality, WindowCenter=40, WindowWidth=400, SeriesDescription="Thorax 5.0")
    files = write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)
    before, after = source.headers[2], dcmread(files[2])
    for keyword in (
        "SOPClassUID", "StudyInstanceUID", "FrameOfReferenceUID", "PatientID", "PatientName", "PixelSpacing",
        "Modality", "ImagePositionPatient", "ImageOrientationPatient", "InstanceNumber", "WindowCenter", "WindowWidth",
        "SeriesTime",
    ):  # fmt: skip
        assert after[keyword].value == before[keyword].value, keyword
    assert after.SeriesInstanceUID != before.SeriesInstanceUID
    assert after.SOPInstanceUID != before.SOPInstanceUID
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
    assert after.ImageType[0] == "DERIVED"
    assert after.SourceImageSequence[0].ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert after.SourceImageSequence[0].SpatialLocationsPreserved == "YES"
    assert after.DerivationCodeSequence[0].CodeValue == "RESTORED"
    equipment = after.ContributingEquipmentSequence[-1]
    assert (equipment.ManufacturerModelName, equipment.SoftwareVersions[0]) == ("mira_net", "4")
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert after.SeriesDescription == "Thorax 5.0 (MIRA-Net, research use)"
    assert len({dcmread(path).SeriesInstanceUID for path in files}) == 1
    assert len({dcmread(path).SOPInstanceUID for path in files}) == len(files)


def test_stale_and_private_attributes_are_gone_and_the_source_is_untouched(tmp_path):
    private = Dataset()
    private.CodeMeaning = "x"
    private.add_new(0x00291010, "LO", "vendor")
    source = source_of(
        tmp_path / "in",
        SmallestImagePixelValue=1,
        PixelPaddingValue=-2000,
        LossyImageCompression="01",
        LossyImageCompressionRatio=9,
        ProcedureCodeSequence=[private],
    )
    for header in source.headers:
        header.add_new(0x00291011, "LO", "vendor")
        header.add_new(0x60003000, "OW", b"\0\0")
    written = dcmread(write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)[0])
    for keyword in ("SmallestImagePixelValue", "PixelPaddingValue"):
        assert keyword not in written
    assert 0x60003000 not in written
    assert not [element for element in written.iterall() if element.tag.is_private]
    assert (written.LossyImageCompression, written.LossyImageCompressionRatio) == ("01", 9)
    assert 0x00291011 in source.headers[0]
    assert 0x00291010 in source.headers[0].ProcedureCodeSequence[0]
    assert "RescaleSlope" in source.headers[0]


def test_ct_keeps_integers_exactly_and_fractions_to_a_sixteenth_of_a_hu(tmp_path):
    source = source_of(tmp_path / "in")
    files = write_derived(source, source.volume.voxels, tmp_path / "same", PURPOSE)
    np.testing.assert_array_equal(np.stack([decode(path) for path in files]), source.volume.voxels)
    shifted = source.volume.voxels + np.random.default_rng(0).uniform(0, 1, source.volume.voxels.shape).astype(
        np.float32
    )
    files = write_derived(source, shifted, tmp_path / "shifted", PURPOSE)
    assert np.abs(np.stack([decode(path) for path in files]) - shifted).max() <= 0.0625
    assert len({dcmread(path).RescaleSlope for path in files}) == 1


def test_ct_of_an_extreme_range_takes_a_coarser_slope(tmp_path):
    source = source_of(tmp_path / "in")
    voxels = source.volume.voxels.copy()
    voxels[1, 5, 5] = 30000.5
    files = write_derived(source, voxels, tmp_path / "out", PURPOSE)
    slope = float(dcmread(files[0]).RescaleSlope)
    assert slope == 0.5
    assert np.abs(np.stack([decode(path) for path in files]) - voxels).max() <= slope / 2


def test_pet_goes_back_to_becquerel_with_a_slope_per_slice(tmp_path):
    source = source_of(tmp_path / "in", "PT")
    assert source.unit is Unit.SUVBW
    voxels = source.volume.voxels * np.array([1, 0.001, 0, 30], np.float32)[:, None, None]
    files = write_derived(source, voxels, tmp_path / "out", PURPOSE)
    again = np.stack([decode(path, source.suv_factor) for path in files])
    for plane, expected in zip(again, voxels, strict=True):
        assert np.abs(plane - expected).max() <= max(expected.max() / 65000, 1e-12)
    assert all(float(dcmread(path).RescaleIntercept) == 0 for path in files)
    assert all(dcmread(path).Units == "BQML" for path in files)
    slopes = [float(dcmread(path).RescaleSlope) for path in files]
    assert len(set(slopes)) == 3  # the empty slice keeps the source's own, as the first does


@pytest.mark.parametrize("slope", ["0.5", "1", "3.14159265358979", "1.23456789e-05", "17203.4567"])
@pytest.mark.parametrize(("low", "high"), [(0, 65535), (0, 32767), (0, 900), (-32768, 32767), (-3, 500)])
def test_pet_that_was_not_changed_lies_on_its_own_steps(tmp_path, slope, low, high):
    kind = np.int16 if low < 0 else np.uint16
    stored = np.random.default_rng(1).integers(low, high, (3, *SIZE), endpoint=True).astype(kind)
    stored[:, 0, :2] = low, high
    stored[1] = 0
    headers = [make_header("PT", n, stored[n], RescaleSlope=slope) for n in range(3)]
    source = read_series(write(tmp_path / "in", headers))
    for plane, one in zip(stored, encode(source, source.volume.voxels), strict=True):
        np.testing.assert_allclose(one.values / float(slope), plane, rtol=0, atol=1e-5)
        if low == 0 and plane.any():  # all 16 bits but one
            assert one.pixels.max() > 32767


@pytest.mark.parametrize("change", [{"RescaleSlope": None}, {"RescaleSlope": 0}, {"RescaleSlope": -2},
                                    {"RescaleIntercept": 0.3}])  # fmt: skip
def test_pet_without_steps_of_its_own_spends_all_16_bits(tmp_path, change):
    source = source_of(tmp_path / "in", "PT")
    for header in source.headers:
        for keyword, value in change.items():
            setattr(header, keyword, value)
    planes = source.volume.voxels.astype(float) / source.suv_factor
    for plane, one in zip(planes, encode(source, source.volume.voxels), strict=True):
        assert one.pixels.max() == 65535
        assert np.abs(one.values - plane).max() <= 0.501 * float(one.slope)


def test_pet_that_was_changed_is_as_fine_as_half_of_16_bits_allows(tmp_path):
    source = source_of(tmp_path / "in", "PT")
    for scale in np.geomspace(1e-3, 1e3, 50):
        voxels = (source.volume.voxels * scale).astype(np.float32)
        for plane, one in zip(voxels.astype(float) / source.suv_factor, encode(source, voxels), strict=True):
            assert float(one.slope) <= 2 * plane.max() / 65535
            assert np.abs(one.values - plane).max() <= plane.max() / 65000


def test_mr_stays_on_its_own_integer_scale(tmp_path):
    source = source_of(tmp_path / "in", "MR")
    files = write_derived(source, source.volume.voxels + np.float32(0.3), tmp_path / "out", PURPOSE)
    assert all("RescaleSlope" not in dcmread(path) for path in files)
    assert np.abs(np.stack([decode(path) for path in files]) - source.volume.voxels).max() < 1e-6


def test_mr_of_a_coarse_scale_gets_a_rescale_instead_of_losing_detail(tmp_path):
    source = source_of(tmp_path / "in", "MR", RescaleSlope=0.01, RescaleIntercept=0)
    files = write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)
    error = np.abs(np.stack([decode(path) for path in files]) - source.volume.voxels).max()
    assert error < 0.001
    assert all(stored.slope is not None for stored in encode(source, source.volume.voxels))


def test_negative_values_survive(tmp_path):
    for modality in ("PT", "MR"):
        source = source_of(tmp_path / modality, modality)
        voxels = source.volume.voxels - source.volume.voxels.mean()
        files = write_derived(source, voxels, tmp_path / f"out-{modality}", PURPOSE)
        again = np.stack([decode(path, source.suv_factor) for path in files])
        assert np.abs(again - voxels).max() <= max(0.5, 2 * np.abs(voxels).max() / 65000)


def test_restored_series_is_recognised_and_a_simulated_one_can_be_read(tmp_path):
    source = source_of(tmp_path / "in")
    restored = write_derived(source, source.volume.voxels, tmp_path / "restored", PURPOSE)
    with pytest.raises(Refused) as caught:
        read_series(restored)
    assert caught.value.reason is Reason.ALREADY_RESTORED
    simulated = write_derived(source, source.volume.voxels, tmp_path / "low", simulated_by("ct-noise 1", "dose 0.1"))
    back = read_series(simulated)
    np.testing.assert_array_equal(back.volume.voxels, source.volume.voxels)
    np.testing.assert_array_equal(back.volume.affine, source.volume.affine)


@pytest.mark.parametrize(
    ("offset", "hours"),
    [("+0900", 9), ("-0330", -3.5), ("+1400", 14), ("+0000", 0), (None, 2), ("+9900", 2), ("0900", 2), ("", 2)],
)
def test_the_moment_is_written_in_the_time_zone_that_the_source_names(tmp_path, monkeypatch, offset, hours):
    monkeypatch.setenv("TZ", "MIRA-2")  # this machine is two hours ahead
    time.tzset()
    try:
        source = source_of(tmp_path / "in", slices=3, TimezoneOffsetFromUTC=offset)
        began = datetime.now(UTC)
        written = dcmread(write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)[0])
        ended = datetime.now(UTC)
    finally:
        monkeypatch.undo()
        time.tzset()
    for part in ("Content", "InstanceCreation"):
        told = written[f"{part}Date"].value + written[f"{part}Time"].value
        moment = datetime.strptime(told + " +0000", "%Y%m%d%H%M%S.%f %z") - timedelta(hours=hours)
        assert began <= moment <= ended
    contributed = written.ContributingEquipmentSequence[-1].ContributionDateTime
    assert began <= datetime.strptime(contributed, "%Y%m%d%H%M%S.%f%z") <= ended


@pytest.mark.parametrize("fault", ["shape", "nan", "exists"])
def test_nothing_is_written_when_something_is_wrong(tmp_path, fault):
    source, out = source_of(tmp_path / "in"), tmp_path / "out"
    voxels = source.volume.voxels.copy()
    if fault == "shape":
        voxels = voxels[1:]
    elif fault == "nan":
        voxels[0, 0, 0] = np.nan
    else:
        out.mkdir()
    with pytest.raises(DataRejected):
        write_derived(source, voxels, out, PURPOSE)
    assert not list(out.glob("*"))
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_long_descriptions_stay_within_their_type(tmp_path):
    source = source_of(tmp_path / "in", SeriesDescription="x" * 64, DerivationDescription="y" * 1024)
    written = dcmread(write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)[0])
    assert len(written.SeriesDescription) <= 64
    assert written.SeriesDescription.endswith("(MIRA-Net, research use)")
    assert len(written.DerivationDescription) <= 1024
    assert "MIRA-Net" in written.DerivationDescription


def test_repeated_instance_numbers_become_slice_order(tmp_path):
    source = source_of(tmp_path / "in", InstanceNumber=7)
    files = write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)
    assert [dcmread(path).InstanceNumber for path in files] == [1, 2, 3, 4]


BENCH = Path(os.environ.get("MIRA_BENCH", Path(__file__).parents[3] / "shared" / "bench"))


@pytest.mark.bench
@pytest.mark.skipif(not BENCH.is_dir(), reason=f"the real scans are not at {BENCH}; set MIRA_BENCH")
@pytest.mark.parametrize(
    "folder",
    ["local/site-mskcc/CT/CRLM-CT-1004", "local/site-uih/MR/UIH_t1_3d_sag", "train/site-basel-siemens/CT/example_ct",
     "local/site-mcgill-heldout/PET/STS_022", "train/site-cmb-toshiba/MR/CMB-CRC-MSB-06489_T2"],
)  # fmt: skip
def test_real_series_come_back_within_half_a_stored_unit_at_the_same_place(tmp_path, folder):
    source = read_series((BENCH / folder).glob("*.dcm"))
    low = simulated_by("identity 1", "nothing")
    again = read_series(write_derived(source, source.volume.voxels, tmp_path / "out", low))
    np.testing.assert_array_equal(again.volume.affine, source.volume.affine)
    unit = np.array([float(header.get("RescaleSlope", 1)) for header in again.headers]) * source.suv_factor
    difference = np.abs(again.volume.voxels - source.volume.voxels).max(axis=(1, 2))
    rounding = np.spacing(np.abs(source.volume.voxels).max(axis=(1, 2)))  # of float32 voxels
    assert (difference <= (0 if source.modality == "PET" else 0.5 * unit) + rounding).all()
    assert again.suv_factor == source.suv_factor


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not installed (Debian: dicom3tools)")
@pytest.mark.parametrize("modality", ["CT", "PT", "MR"])
def test_dciodvfy_finds_no_error_that_the_source_has_not(tmp_path, modality):
    source = source_of(tmp_path / "in", modality)
    files = write_derived(source, source.volume.voxels, tmp_path / "out", PURPOSE)

    def errors(path):
        done = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, check=False)
        return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}

    for before, after in zip(source.files, files, strict=True):
        assert errors(after) - errors(before) == set()
