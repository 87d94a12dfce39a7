"""Attenuation from the paired CT, and the fit to a scan's own noise."""

from dataclasses import replace

import numpy as np
import pytest

from mira.degrade import pet
from mira.degrade.interface import degrade
from mira.degrade.pet_acquisition import scanned
from mira.degrade.pet_attenuation import BONE_LINES, CtAttenuation, PairedCt, mu_from_hu
from mira.degrade.pet_calibration import calibrate
from mira.degrade.pet_filters import axial_weights
from mira.errors import ConfigurationError
from mira.phantom.nema import uniform_cylinder
from mira.phantom.raster import Grid
from mira.tasks import Task
from mira.volume import Volume

GRID = Grid((0, 0, 0), 48, 5.0, 24, 3.3)
SPACING = (3.3, 5.0, 5.0)
CYLINDER = uniform_cylinder(GRID)


def affine(spacing: tuple[float, float, float], origin: tuple[float, float, float]) -> np.ndarray:
    """LPS affine of axial slices."""
    matrix = np.diag([spacing[2], spacing[1], spacing[0], 1.0])
    matrix[:3, 3] = origin
    return matrix


PET = Volume(CYLINDER.activity, affine(SPACING, (-117.5, -117.5, -37.95)))


def ct_of_cylinder(side: int = 260, slices: int = 30, bone_below: float = 100.0) -> Volume:
    """A finer CT with its own origin: water within 100 mm of the axis, bone behind `bone_below`."""
    spacing, origin = (3.0, 1.0, 1.0), (-(side - 1) / 2, -(side - 1) / 2 + 5, -40.0)
    y, x = (np.indices((side, side)) + np.array([origin[1], origin[0]])[:, None, None]).astype(np.float32)
    hu = np.where(np.hypot(x, y) < 100, np.where(y > bone_below, 1000, 0), -1000).astype(np.float32)
    return Volume(np.repeat(hu[None], slices, axis=0), affine(spacing, origin))


def test_ct_numbers_become_attenuation_at_511_kev():
    for kvp, (slope, at_air, break_hu) in BONE_LINES.items():
        mu = mu_from_hu(np.array([-1500, -1000, 0, break_hu - 0.1, break_hu + 0.1, 1000], np.float32), kvp)
        np.testing.assert_allclose(mu[:3], [0, 0, 0.0096])
        assert mu[4] == pytest.approx(mu[3], rel=0.003)  # both lines meet
        assert mu[5] == pytest.approx(slope * 2000 + at_air)
        assert 0.0125 < mu[5] < 0.0160  # bone; its CT number overstates attenuation, more so at low voltage
    bone = np.array([1000], np.float32)
    assert mu_from_hu(bone, 80) < mu_from_hu(bone, 140)
    assert mu_from_hu(bone) == mu_from_hu(bone, 120)


def test_ct_is_resampled_onto_the_pet():
    attenuation = CtAttenuation(PairedCt(ct_of_cylinder(bone_below=40.0), 120.0), PET)
    assert attenuation.coverage() == 1
    mu = attenuation.slices(3, 5)
    x, y = np.meshgrid(GRID.x(), GRID.y())
    inside, bone = np.hypot(x, y) < 92, y > 48
    np.testing.assert_allclose(mu[:, inside & (y < 32)], 0.0096, rtol=1e-3)
    np.testing.assert_allclose(mu[:, inside & bone], mu_from_hu(np.float32([1000]))[0], rtol=1e-3)
    assert mu[:, (np.hypot(x, y) > 108) & (np.abs(y) < 110)].max() == 0
    edge = (np.hypot(x, y) > 92) & (np.hypot(x, y) < 108) & (y < 32)
    assert mu[:, edge].mean() == pytest.approx(CYLINDER.mu[12][edge].mean(), rel=0.05)


def test_what_the_ct_does_not_show_is_unknown():
    short = ct_of_cylinder(slices=10)  # ends at z = -13
    attenuation = CtAttenuation(PairedCt(short), PET)
    assert 0.2 < attenuation.coverage() < 0.45
    mu = attenuation.slices(0, 24)
    assert np.isfinite(mu[2, 24, 24])
    assert np.isnan(mu[12:]).all()
    narrow = CtAttenuation(PairedCt(ct_of_cylinder(side=120)), PET).slices(10, 11)[0]
    assert np.isfinite(narrow[24, 24])
    assert np.isnan(narrow[24, 2])
    assert pet.prepare(PET, 0.1, paired_ct=PairedCt(short))[1] is None  # too little of it


def test_one_slice_of_ct_and_turned_axes():
    ct = ct_of_cylinder(bone_below=40.0)
    turned = Volume(ct.voxels[::-1, ::-1], ct.affine @ np.array(
        [[1, 0, 0, 0], [0, -1, 0, 259], [0, 0, -1, 29], [0, 0, 0, 1]], float))  # fmt: skip
    straight = CtAttenuation(PairedCt(ct), PET).slices(7, 8)
    np.testing.assert_allclose(CtAttenuation(PairedCt(turned), PET).slices(7, 8), straight, atol=1e-6)
    plane = Volume(PET.voxels[:1], PET.affine)
    single = Volume(ct.voxels[:1], affine((3.0, 1.0, 1.0), (-129.5, -124.5, -37.95)))
    assert np.nanmax(CtAttenuation(PairedCt(single), plane).slices(0, 1)) > 0.0096


def scan(parameters: pet.PetParameters) -> np.ndarray:
    batches = scanned(
        np.repeat(CYLINDER.activity[12:13], 24, axis=0), np.repeat(CYLINDER.mu[12:13], 24, axis=0), 5.0, parameters, 1,
        slice_mm=3.3,
    )  # fmt: skip
    return np.concatenate(list(batches))


@pytest.mark.parametrize(("counts", "filter_mm", "axial_mm"), [(300.0, 7.0, 5.0), (2000.0, 5.0, 0.0)])
def test_calibration_finds_the_scans_own_noise(counts, filter_mm, axial_mm):
    true = pet.PetParameters(0.5, counts, views=40, filter_fwhm_mm=filter_mm, axial_fwhm_mm=axial_mm)
    image = scan(true)
    start = replace(true, counts_per_suv=700.0, filter_fwhm_mm=6.0, axial_fwhm_mm=3.0)
    found = calibrate(image, SPACING, start)
    assert found.calibrated
    assert found.counts_per_suv == pytest.approx(counts, rel=0.25)
    assert found.filter_fwhm_mm == pytest.approx(filter_mm, abs=1.0)
    correlations = []
    for fwhm in (found.axial_fwhm_mm, axial_mm):
        weights = axial_weights(fwhm, 3.3)
        correlations.append(float((weights[1:] * weights[:-1]).sum() / np.square(weights).sum()))
    assert correlations[0] == pytest.approx(correlations[1], abs=0.08)
    low = np.concatenate(list(pet.lower_counts(image, 5.0, found, 3, slice_mm=3.3)))
    inner = np.hypot(GRID.x()[None, :], GRID.y()[:, None]) < 70
    added, own = (float(images[:, inner].var(axis=0).mean()) for images in (low - image, image))
    assert added / own == pytest.approx(1, rel=0.15)  # half the counts: as much noise again


def test_calibration_leaves_alone_what_it_cannot_fit():
    parameters = pet.PetParameters(0.1, 500.0, views=40)
    noise_free = np.repeat(CYLINDER.activity[12:13], 4, axis=0)
    assert calibrate(noise_free, SPACING, parameters) == parameters
    assert calibrate(np.zeros((4, 48, 48), np.float32), SPACING, parameters) == parameters
    assert calibrate(noise_free[:1], SPACING, parameters) == parameters


def test_slices_far_apart_tell_nothing_about_the_axial_filter():
    image = scan(pet.PetParameters(0.5, 300.0, views=40))
    start = pet.PetParameters(0.1, 500.0, views=40, axial_fwhm_mm=4.4)
    found = calibrate(image[::8], (26.4, 5.0, 5.0), start)
    assert found.calibrated
    assert found.axial_fwhm_mm == 4.4
    assert found.count_fraction == 0.1


def test_degrade_uses_the_ct_and_records_it():
    image = Volume(scan(pet.PetParameters(0.5, 300.0, views=40)), PET.affine)
    paired = PairedCt(ct_of_cylinder(bone_below=0.0), 120.0)
    with_ct, truth = degrade(image, Task.PET_SYNTHESIS, 0.1, 1, paired_ct=paired)
    without, outline = degrade(image, Task.PET_SYNTHESIS, 0.1, 1)
    assert (truth.parameters["attenuation"], outline.parameters["attenuation"]) == ("ct", "water-outline")
    assert truth.parameters["calibrated"] is outline.parameters["calibrated"] is True
    assert not np.array_equal(with_ct.voxels, without.voxels)


def test_options_take_part_in_the_fit():
    image = Volume(scan(pet.PetParameters(0.5, 300.0, views=40)), PET.affine)
    usual, _ = pet.prepare(image, 0.1)
    longer, _ = pet.prepare(image, 0.1, options={"iterations": 6, "views": 40})
    assert (longer.iterations, longer.views, longer.calibrated) == (6, 40, True)
    assert longer.counts_per_suv > 2 * usual.counts_per_suv  # noisier: the same noise stands for more counts
    fixed, _ = pet.prepare(image, 0.1, options={"counts_per_suv": 77.0, "filter_fwhm_mm": 4.0})
    assert (fixed.counts_per_suv, fixed.filter_fwhm_mm) == (77.0, 4.0)
    with pytest.raises(ConfigurationError, match="attenuation"):
        pet.prepare(image, 0.1, options={"attenuation": "ct"})
