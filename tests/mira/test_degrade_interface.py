"""The one way to degrade, and when it refuses."""

import json

import numpy as np
import pytest

from mira.cases import write_case
from mira.cli import main
from mira.degrade.interface import degrade, severity
from mira.errors import ConfigurationError, DataRejected
from mira.tasks import TASKS, Task, Unit
from mira.volume import Volume, read_nifti
from tests.mira.case_records import case_record

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def volume(task: Task, slices: int = 3, side: int = 48) -> Volume:
    rng = np.random.default_rng(0)
    disc = np.hypot(*(np.indices((side, side)) - side / 2)) < side / 3
    base = {Task.CT_DENOISING: (40, -1000), Task.PET_SYNTHESIS: (2, 0), Task.MRI_SUPER_RESOLUTION: (500, 5)}[task]
    image = np.where(disc, base[0], base[1]) + rng.random((slices, side, side))
    return Volume(image.astype(np.float32), AFFINE)


@pytest.mark.parametrize("task", list(Task))
def test_every_task_and_default_level(task):
    reference = volume(task)
    before = reference.voxels.copy()
    last = 0.0
    for level in TASKS[task].levels:
        degraded, physics = degrade(reference, task, level, seed=4)
        again, _ = degrade(reference, task, level, seed=4)
        np.testing.assert_array_equal(degraded.voxels, again.voxels)
        assert degraded.voxels.shape == reference.voxels.shape
        assert degraded.voxels.dtype == np.float32
        assert np.isfinite(degraded.voxels).all()
        assert not np.array_equal(degraded.voxels, reference.voxels)
        assert last < physics.severity <= 1
        assert (physics.level, physics.seed) == (level, 4)
        json.dumps(physics.model_dump(mode="json"), allow_nan=False)
        last = physics.severity
    np.testing.assert_array_equal(reference.voxels, before)


def test_severity_is_logarithmic_and_bounded():
    assert severity(Task.CT_DENOISING, 0.05) == 1
    assert severity(Task.CT_DENOISING, 0.01) == 1
    assert severity(Task.CT_DENOISING, 0.25) == pytest.approx(2 * severity(Task.CT_DENOISING, 0.5))
    assert severity(Task.MRI_SUPER_RESOLUTION, 8) == 1
    assert severity(Task.MRI_SUPER_RESOLUTION, 4) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("task", "level"),
    [(Task.CT_DENOISING, 1.0), (Task.CT_DENOISING, 4), (Task.PET_SYNTHESIS, 0), (Task.PET_SYNTHESIS, float("nan")),
     (Task.MRI_SUPER_RESOLUTION, 1), (Task.MRI_SUPER_RESOLUTION, 0.25)],
)  # fmt: skip
def test_impossible_levels_are_named(task, level):
    with pytest.raises(ConfigurationError, match=TASKS[task].level_name):
        degrade(volume(task), task, level, 0)


def test_wrong_unit_modality_and_ingest_refusals():
    pet = case_record("PET")
    with pytest.raises(DataRejected, match="BQML"):
        degrade(volume(Task.PET_SYNTHESIS), Task.PET_SYNTHESIS, 0.25, 0, pet.model_copy(update={"unit": Unit.BQML}))
    with pytest.raises(DataRejected, match="needs CT"):
        degrade(volume(Task.CT_DENOISING), Task.CT_DENOISING, 0.25, 0, pet)
    refused = pet.model_copy(update={"tasks": [], "task_refusals": {"pet-synthesis": "no weight"}})
    with pytest.raises(DataRejected, match="no weight"):
        degrade(volume(Task.PET_SYNTHESIS), Task.PET_SYNTHESIS, 0.25, 0, refused)


def test_images_that_cannot_be_projected_are_refused():
    with pytest.raises(DataRejected, match="too small"):
        degrade(volume(Task.PET_SYNTHESIS, side=12), Task.PET_SYNTHESIS, 0.25, 0)
    oblong = Volume(volume(Task.CT_DENOISING).voxels, np.diag([1.0, 2.0, 3.0, 1.0]))
    with pytest.raises(DataRejected, match="not square"):
        degrade(oblong, Task.CT_DENOISING, 0.25, 0)
    broken = volume(Task.MRI_SUPER_RESOLUTION)
    broken.voxels[1, 5, 5] = np.nan
    with pytest.raises(DataRejected, match="finite"):
        degrade(broken, Task.MRI_SUPER_RESOLUTION, 2, 0)
    becquerel = Volume(volume(Task.PET_SYNTHESIS).voxels * 5000, AFFINE)
    with pytest.raises(DataRejected, match="SUVbw"):
        degrade(becquerel, Task.PET_SYNTHESIS, 0.25, 0)


def test_the_verb_writes_a_pair(tmp_path, capsys):
    image = volume(Task.PET_SYNTHESIS)
    folder = write_case(tmp_path, case_record("PET", shape=image.voxels.shape), image)
    command = ["degrade", str(folder), "--task", "pet-synthesis", "--level", "0.25", "--out", str(tmp_path / "o")]
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "o/physics.json").read_text())
    np.testing.assert_array_equal(read_nifti(tmp_path / "o/reference.nii").voxels, image.voxels)
    expected, _ = degrade(image, Task.PET_SYNTHESIS, 0.25, 0, case_record("PET", shape=image.voxels.shape))
    np.testing.assert_array_equal(read_nifti(tmp_path / "o/degraded.nii").voxels, expected.voxels)
    assert main([*command[:3], "ct-denoising", *command[4:]]) == 3
    assert "needs CT" in capsys.readouterr().err
