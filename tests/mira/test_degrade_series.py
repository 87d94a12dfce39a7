"""`mira degrade` from DICOM to DICOM."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from mira.cli import main
from mira.degrade.interface import degrade
from mira.degrade.series import degrade_dicom, paired_ct, read_of, record_of
from mira.dicom.scan import series_of
from mira.dicom.volume import read_series
from mira.errors import ConfigurationError, DataRejected
from mira.tasks import TASKS, Modality, Task
from mira.volume import read_nifti
from tests.bench_sites import BENCH
from tests.dicom_checks import assert_valid_dicom
from tests.mira.dicom_synthetic import make_header, make_series, write

SIZE = (64, 64)
SERIES = {
    Task.CT_DENOISING: ("CT", 1040, 40, "HU"),
    Task.PET_SYNTHESIS: ("PT", 9000, 500, "SUVbw"),
    Task.MRI_SUPER_RESOLUTION: ("MR", 700, 20, "a.u."),
}


def make_scan(folder: Path, task: Task, **changes) -> list[Path]:
    """A disc in the middle of five slices."""
    modality, disc, rest, _ = SERIES[task]
    inside = np.hypot(*(np.indices(SIZE) - 31.5)) < 22
    rng = np.random.default_rng(0)
    slices = []
    for number in range(5):
        stored = (np.where(inside, disc, rest) + rng.integers(0, 9, SIZE)).astype(np.int16)
        facts = {"PixelSpacing": [2.0, 2.0], **changes}
        slices.append(make_header(modality, number, stored, **facts))
    return write(folder, slices, modality.lower())


@pytest.mark.parametrize("task", list(Task))
def test_a_derived_series_of_the_same_study(task, tmp_path, capsys):
    sources = make_scan(tmp_path / "in", task)
    level = TASKS[task].levels[1]
    command = ["degrade", str(tmp_path / "in"), "--task", task, "--level", str(level), "--seed", "5", "--nifti"]
    assert main([*command, "--out", str(tmp_path / "out"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)["series"]
    assert len(printed) == 1
    folder = Path(printed[0]["path"])
    assert json.loads(folder.with_name(f"{folder.name}.json").read_text()) == printed[0]["physics"]
    files = sorted(folder.iterdir())
    assert len(files) == len(sources)
    before, after = dcmread(sources[0]), dcmread(files[0])
    assert after.StudyInstanceUID == before.StudyInstanceUID
    assert after.SeriesInstanceUID != before.SeriesInstanceUID
    assert after.SOPInstanceUID != before.SOPInstanceUID
    assert "simulation" in after.DerivationDescription
    assert f"{TASKS[task].level_name} {level:g}" in after.DerivationDescription
    assert after.ImageType[0] == "DERIVED"
    assert after.ImagePositionPatient == before.ImagePositionPatient

    source, low = read_series(sources), read_series(files)
    assert "simulated" in low.warnings
    assert low.unit == SERIES[task][3]
    expected, physics = degrade(source.volume, task, level, 5, record_of(source))
    assert printed[0]["physics"] == physics.model_dump(mode="json")
    step = {"CT": 0.07, "PT": 1e-3, "MR": 0.51}[SERIES[task][0]]  # 16-bit storage
    np.testing.assert_allclose(low.volume.voxels, expected.voxels, atol=step)
    pair = folder.with_name(f"{folder.name}-nifti")
    np.testing.assert_array_equal(read_nifti(pair / "degraded.nii").voxels, expected.voxels)
    np.testing.assert_array_equal(read_nifti(pair / "reference.nii").voxels, source.volume.voxels)


def test_a_zip_with_several_series_gives_those_of_the_task(tmp_path):
    make_scan(tmp_path / "in/ct", Task.CT_DENOISING)
    make_scan(tmp_path / "in/mr", Task.MRI_SUPER_RESOLUTION)
    make_series(tmp_path / "in/small", "MR", SeriesInstanceUID="1.2.3.4", Rows=None)
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in sorted((tmp_path / "in").rglob("*.dcm")):
            archive.write(path, path.relative_to(tmp_path))
    made, refusals = degrade_dicom(tmp_path / "in.zip", tmp_path / "out", Task.MRI_SUPER_RESOLUTION, 2, 0)
    assert [item.slices for item in made] == [5]
    assert refusals["CT series, but MR is wanted"] == 5
    assert sum(refusals.values()) == 9  # the four slices without a matrix, too


def test_a_pet_takes_the_ct_in_its_frame_of_reference(tmp_path):
    make_scan(tmp_path / "pet", Task.PET_SYNTHESIS)
    make_scan(tmp_path / "ct", Task.CT_DENOISING)
    make_scan(tmp_path / "other", Task.CT_DENOISING, SeriesInstanceUID="1.2.9", FrameOfReferenceUID="1.2.8")
    (pet,), (cts, _) = read_of(tmp_path, Modality.PET)[0], read_of(tmp_path, Modality.CT)
    assert len(cts) == 2
    companion = paired_ct(pet, cts)
    assert companion is not None
    assert companion.kvp == 120
    assert paired_ct(pet, [ct for ct in cts if ct.headers[0].FrameOfReferenceUID == "1.2.8"]) is None
    made, _ = degrade_dicom(tmp_path, tmp_path / "out", Task.PET_SYNTHESIS, 0.1, 0)
    assert made[0].physics.parameters["attenuation"] == "ct"
    made, _ = degrade_dicom(tmp_path / "pet", tmp_path / "out2", Task.PET_SYNTHESIS, 0.1, 0)
    assert made[0].physics.parameters["attenuation"] != "ct"


def test_what_cannot_be_is_refused_without_leaving_files(tmp_path, capsys):
    make_scan(tmp_path / "in", Task.MRI_SUPER_RESOLUTION)
    with pytest.raises(DataRejected, match="CT is wanted"):
        degrade_dicom(tmp_path / "in", tmp_path / "out", Task.CT_DENOISING, 0.25, 0)
    with pytest.raises(ConfigurationError, match="cropped"):
        degrade_dicom(tmp_path / "in", tmp_path / "out", Task.MRI_SUPER_RESOLUTION, 2, 0, {"mode": "cropped"})
    command = ["degrade", str(tmp_path / "in"), "--task", "mri-super-resolution", "--out", str(tmp_path / "out")]
    assert main([*command, "--level", "0.5"]) == 2
    assert main([*command, "--level", "2", "--set", "fov=3"]) == 2
    assert main(["degrade", str(tmp_path / "none"), *command[2:], "--level", "2"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.bench
@pytest.mark.parametrize(
    ("folder", "task", "level"),
    [
        ("train/site-lidc-philips/CT", Task.CT_DENOISING, 0.25),
        ("train/site-mcgill/PET/STS_001_raw", Task.PET_SYNTHESIS, 0.1),
        ("train/site-mcgill/MR/STS_001_raw_T2FS", Task.MRI_SUPER_RESOLUTION, 2),
    ],
)
def test_real_series_become_valid_dicom(folder, task, level, tmp_path):
    if not (BENCH / folder).is_dir():
        pytest.skip(f"no real scan at {BENCH / folder}")
    series = max(series_of(sorted(p for p in (BENCH / folder).rglob("*") if p.is_file())), key=lambda s: len(s.files))
    part = tmp_path / "in"
    part.mkdir()
    middle = len(series.files) // 2
    positions = sorted(
        series.files, key=lambda path: float(dcmread(path, stop_before_pixels=True).ImagePositionPatient[2])
    )
    for path in positions[middle - 2 : middle + 2]:
        (part / path.name).symlink_to(path)
    made, _ = degrade_dicom(part, tmp_path / "out", task, level, 1)
    files = sorted(made[0].folder.iterdir())
    assert len(files) == 4
    assert_valid_dicom(*files)
    assert read_series(files).volume.voxels.shape[0] == 4


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ([0, 32, 48, 0], (48, 32)),
        ([32, 0, 0, 64], (32, 64)),
        ([0, 32, 128, 0], (None, None)),
        ([0, 8, 8, 0], (None, None)),
        ([32, 32, 0, 0], (None, None)),
        (None, (None, None)),
    ],
)
def test_the_acquisition_matrix_is_read_where_it_makes_sense(tag, expected, tmp_path):
    make_scan(tmp_path, Task.MRI_SUPER_RESOLUTION, AcquisitionMatrix=tag)
    (volume,), _ = read_of(tmp_path, Modality.MR)
    protocol = record_of(volume).protocol
    assert (protocol.acquired_rows, protocol.acquired_columns) == expected


def test_attributes_that_a_condition_forbids_or_wants_are_settled(tmp_path):
    odd = {"TriggerTime": 0, "BodyPartExamined": "KNEE"}
    make_scan(tmp_path / "mr", Task.MRI_SUPER_RESOLUTION, **odd)
    made, _ = degrade_dicom(tmp_path / "mr", tmp_path / "out", Task.MRI_SUPER_RESOLUTION, 2, 0)
    derived = dcmread(next(made[0].folder.iterdir()))
    assert "TriggerTime" not in derived
    assert derived.Laterality == ""
    make_scan(tmp_path / "gated", Task.MRI_SUPER_RESOLUTION, **odd, ScanOptions="CG", Laterality="L")
    made, _ = degrade_dicom(tmp_path / "gated", tmp_path / "out2", Task.MRI_SUPER_RESOLUTION, 2, 0)
    derived = dcmread(next(made[0].folder.iterdir()))
    assert "TriggerTime" in derived
    assert derived.Laterality == "L"
