"""The one way to degrade, whole or as a stream, its options, and when it refuses."""

import hashlib
import json
import os
import subprocess
import sys
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from mira.cases import write_case
from mira.cli import main
from mira.degrade.files import degrade_file, mapped, write_batches
from mira.degrade.interface import degrade, plan, severity
from mira.degrade.options import parse_options, read_options
from mira.errors import ConfigurationError, DataRejected
from mira.tasks import TASKS, Task, Unit
from mira.volume import Volume, read_nifti, write_nifti
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


@pytest.mark.parametrize("task", list(Task))
def test_the_stream_gives_the_same_slices_as_the_whole(task):
    reference = volume(task, slices=11)
    whole, physics = degrade(reference, task, TASKS[task].levels[0], seed=4)
    made = plan(reference, task, TASKS[task].levels[0], seed=4)
    assert made.physics == physics
    for _ in range(2):  # a plan can run again
        batches = list(made.batches())
        assert max(len(batch) for batch in batches) < 11
        np.testing.assert_array_equal(np.concatenate(batches), whole.voxels)


SCRIPT = """
import hashlib, sys
import numpy as np
from mira.degrade.interface import degrade
from mira.tasks import TASKS, Task
from tests.mira.test_degrade_interface import volume
for task in Task:
    low, _ = degrade(volume(task, slices=5), task, TASKS[task].levels[0], seed=4)
    sys.stdout.write(hashlib.sha256(low.voxels.tobytes()).hexdigest() + "\\n")
"""


def test_the_number_of_threads_changes_nothing():
    here = [
        hashlib.sha256(degrade(volume(task, slices=5), task, TASKS[task].levels[0], 4)[0].voxels.tobytes()).hexdigest()
        for task in Task
    ]
    variables = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "3")
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    assert run.stdout.split() == here


@pytest.mark.parametrize("task", list(Task))
def test_memory_does_not_grow_with_the_slices(task, tmp_path):
    pattern = volume(task, slices=4, side=32).voxels

    def peak(slices: int) -> int:
        path = tmp_path / f"{slices}.nii"
        write_batches(path, (slices, 32, 32), AFFINE, (pattern for _ in range(slices // 4)))
        tracemalloc.start()
        degrade_file(path, tmp_path / f"out{slices}", task, TASKS[task].levels[0], 1)
        result = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return result

    peak(8)  # makes the tables that are kept
    short, long = peak(24), peak(96)
    assert long < 1.25 * short
    assert len(read_nifti(tmp_path / "out96/degraded.nii").voxels) == 96


def test_a_nifti_written_in_batches_is_the_same_file(tmp_path):
    affine = np.array([[1.2, 0, 0, 3], [0, 1.3, 0.1, 4], [0, -0.1, 3, 5], [0, 0, 0, 1.0]])
    image = Volume(np.random.default_rng(0).random((5, 20, 30)).astype(np.float32), affine)
    write_nifti(tmp_path / "whole.nii", image)
    write_batches(tmp_path / "parts.nii", (5, 20, 30), affine, [image.voxels[:2], image.voxels[2:]])
    assert (tmp_path / "whole.nii").read_bytes() == (tmp_path / "parts.nii").read_bytes()
    with pytest.raises(DataRejected, match="4 slices"):
        write_batches(tmp_path / "short.nii", (5, 20, 30), affine, [image.voxels[:4]])
    assert not (tmp_path / "short.nii").exists()


@pytest.mark.parametrize("kind", ["float.nii", "short.nii", "scaled.nii", "float.nii.gz"])
def test_any_nifti_is_mapped(tmp_path, kind):
    stored = np.random.default_rng(0).integers(-500, 900, (30, 20, 35)).astype("i2" if "float" not in kind else "f4")
    image = nib.Nifti1Image(stored, np.diag([-2.0, -2.0, 3.0, 1.0]))
    if kind == "scaled.nii":
        image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / kind)
    with mapped(tmp_path / kind) as found:
        assert found.voxels.dtype == np.float32
        np.testing.assert_allclose(found.voxels, read_nifti(tmp_path / kind).voxels)
        np.testing.assert_allclose(found.affine, AFFINE)


def test_options_replace_what_the_simulator_would_choose(tmp_path):
    path = tmp_path / "options.yaml"
    path.write_text("mri-super-resolution: {partial_fourier: 0.75, slice_factor: 2}\nct-denoising: {bowtie: 0}\n")
    options = read_options(path)
    assert options[Task.CT_DENOISING] == {"bowtie": 0}
    reference = volume(Task.MRI_SUPER_RESOLUTION)
    mr_options = {**options[Task.MRI_SUPER_RESOLUTION], **parse_options(["snr=20", "partial_fill=homodyne"])}
    _, physics = degrade(reference, Task.MRI_SUPER_RESOLUTION, 2, 1, options=mr_options)
    chosen = physics.parameters
    assert (chosen["partial_fourier"], chosen["slice_factor"], chosen["partial_fill"]) == (0.75, 2.0, "homodyne")
    assert chosen["noise"] == pytest.approx(500.5 / 20, rel=0.02)
    reference = volume(Task.CT_DENOISING)
    _, default = degrade(reference, Task.CT_DENOISING, 0.25, 1, options={"calibrate": False})
    _, other = degrade(reference, Task.CT_DENOISING, 0.25, 1, options={"calibrate": False, "views": 200, "cutoff": 0.8})
    assert other.parameters["cutoff"] == 0.8
    assert other.parameters["photons"] * 200 == pytest.approx(
        default.parameters["photons"] * default.parameters["views"]
    )
    _, sparse = degrade(reference, Task.CT_DENOISING, 0.25, 1, options={"view_step": 4})
    assert sparse.parameters["view_step"] == 4
    _, pet = degrade(volume(Task.PET_SYNTHESIS), Task.PET_SYNTHESIS, 0.25, 1, options={"iterations": 3})
    assert pet.parameters["iterations"] == 3


@pytest.mark.parametrize(
    ("task", "options", "why"),
    [
        (Task.CT_DENOISING, {"fotons": 5}, "'fotons' is no option"),
        (Task.CT_DENOISING, {"dose_fraction": 0.5}, "'dose_fraction' is no option"),
        (Task.CT_DENOISING, {"views": 100.5}, "whole number"),
        (Task.CT_DENOISING, {"photons": 0}, "photons must be above 0"),
        (Task.CT_DENOISING, {"view_step": 0}, "view_step"),
        (Task.PET_SYNTHESIS, {"iterations": "two"}, "iterations must be a number"),
        (Task.MRI_SUPER_RESOLUTION, {"snr": 20, "noise": 3}, "one of them"),
        (Task.MRI_SUPER_RESOLUTION, {"partial_fill": "zeros"}, "partial_fill"),
    ],
)
def test_impossible_options_are_named(task, options, why):
    with pytest.raises(ConfigurationError, match=why):
        degrade(volume(task), task, TASKS[task].levels[0], 0, options=options)


def test_files_of_options_that_are_none_are_named(tmp_path):
    path = tmp_path / "options.yaml"
    for text, why in (
        ("ct: {a: 1}", "no task"),
        ("ct-denoising: 5", "name: value"),
        ("[]", "no sections"),
        ("{a: [", "YAML"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigurationError, match=why):
            read_options(path)
    with pytest.raises(ConfigurationError, match="name=value"):
        parse_options(["snr"])


def test_mr_factors_per_axis_and_the_cropped_matrix_keep_the_place():
    reference = volume(Task.MRI_SUPER_RESOLUTION, side=48)
    options = {"column_factor": 1.0, "mode": "cropped"}
    low, physics = degrade(reference, Task.MRI_SUPER_RESOLUTION, 4, 0, options=options)
    assert low.voxels.shape == (3, 12, 48)
    assert physics.severity == pytest.approx(severity(Task.MRI_SUPER_RESOLUTION, 2), abs=1e-6)  # 4 x 1: like 2 x 2
    assert low.spacing == pytest.approx((3.0, 8.0, 2.0))
    # the middle of the field of view is sample 6 of 12 and was sample 24 of 48
    np.testing.assert_allclose(low.affine @ [24, 6, 0, 1], AFFINE @ [24, 24, 0, 1])
