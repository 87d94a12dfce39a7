"""Low-dose CT against its physics."""

from dataclasses import replace

import numpy as np
import pytest

from mira.degrade import ct
from mira.degrade.calibration import calibrate, patches_of, spread
from mira.degrade.ct_flux import REFERENCE_MAS, exposure_mas
from mira.degrade.ct_projector import Projector
from mira.degrade.interface import degrade
from mira.tasks import Task
from mira.volume import Volume
from tests.mira.case_records import case_record

SIDE, PIXEL = 128, 2.0
RADIUS_MM = 100.0


def cylinder(slices: int = 4, side: int = SIDE, radius_mm: float = RADIUS_MM) -> np.ndarray:
    y, x = np.indices((side, side)) - (side - 1) / 2
    water = np.hypot(y, x) * PIXEL < radius_mm
    return np.repeat(np.where(water, 0.0, -1000.0).astype(np.float32)[None], slices, axis=0)


def centre(noise: np.ndarray, half: int = 10) -> np.ndarray:
    middle = noise.shape[-1] // 2
    return noise[:, middle - half : middle + half, middle - half : middle + half]


PARAMETERS = ct.CtParameters(0.25, photons=2e5, electronic_variance=0.0, views=180)


def test_line_integrals_of_a_disc_are_its_chords():
    disc = (cylinder(1)[0] > -500).astype(np.float32)
    lines = Projector(SIDE, 180).project(disc)
    bins = np.fft.fftfreq(lines.shape[-1], 1 / lines.shape[-1])
    # the grid's centre lies half a pixel beside the phantom's, so compare where the chord is flat
    chords = 2 * np.sqrt(np.maximum((RADIUS_MM / PIXEL) ** 2 - bins**2, 0))
    inner = np.abs(bins) < 20
    assert np.abs(lines[:, inner] - chords[inner]).max() < 0.02 * chords.max()


def test_filtered_back_projection_inverts_the_projection():
    disc = (cylinder(1)[0] > -500).astype(np.float32)
    engine = Projector(SIDE, 180)
    flat = centre(engine.reconstruct(engine.project(disc), cutoff=2.0)[None])
    assert np.std(flat) < 0.02
    assert np.mean(flat) == pytest.approx(1, abs=0.02)


def test_electronic_noise_matters_where_photons_are_few():
    p = np.array([1.0, 6.0], dtype=np.float32)
    with_noise = ct.noise_sigma(p, replace(PARAMETERS, electronic_variance=30.0)) / ct.noise_sigma(p, PARAMETERS)
    assert with_noise[0] == pytest.approx(1, abs=0.005)
    assert with_noise[1] > 1.05


@pytest.mark.parametrize("dose", [0.05, 0.3, 0.9])
def test_spread_for_many_counts_is_the_published_equation(dose):
    parameters = replace(PARAMETERS, dose_fraction=dose, photons=1e6, electronic_variance=10.0)
    p = np.linspace(0, 3, 50, dtype=np.float32)
    inverse = np.exp(p) / parameters.photons
    expected = np.sqrt((1 - dose) / dose * inverse * (1 + (1 + dose) / dose * 10.0 * inverse))
    np.testing.assert_allclose(ct.noise_sigma(p, parameters), expected, rtol=0.005)


def test_noise_depends_on_seed_and_slice_alone():
    volume = cylinder(6)
    whole = ct.noise(volume, PIXEL, PARAMETERS, seed=7)
    np.testing.assert_array_equal(whole, ct.noise(volume, PIXEL, PARAMETERS, seed=7))
    np.testing.assert_array_equal(whole[5], ct.noise(volume[5:], PIXEL, PARAMETERS, seed=7, first=5)[0])
    other = ct.noise(volume, PIXEL, PARAMETERS, seed=8)
    assert abs(np.corrcoef(centre(whole).ravel(), centre(other).ravel())[0, 1]) < 0.1
    assert abs(np.corrcoef(centre(whole[:1]).ravel(), centre(whole[1:2]).ravel())[0, 1]) < 0.2


def test_neither_threads_nor_the_split_of_a_stream_change_a_bit(tmp_path):
    volume = cylinder(7) + np.arange(7, dtype=np.float32)[:, None, None]
    parameters = replace(PARAMETERS, profile_slices=2.5, dose_fraction=0.02)
    mapped = np.memmap(tmp_path / "v", dtype=np.float32, mode="w+", shape=volume.shape)
    mapped[:] = volume
    one = np.concatenate(list(ct.lower_dose(mapped, PIXEL, parameters, 3, workers=1)))
    two = np.concatenate(list(ct.lower_dose(volume, PIXEL, parameters, 3, workers=2)))
    np.testing.assert_array_equal(one, two)
    cuts = [slice(0, 1), slice(1, 4), slice(4, 7)]
    parts = [b for c in cuts for b in ct.lower_dose(volume[c], PIXEL, parameters, 3, workers=2, first=c.start)]
    np.testing.assert_array_equal(one, np.concatenate(parts))


def test_a_stream_reads_slices_when_their_turn_comes():
    asked = []

    class Watched:
        def __len__(self):
            return 40

        def __getitem__(self, index):
            asked.append(index)
            return cylinder(1, 64, 50)[0]

    stream = ct.lower_dose(Watched(), PIXEL, replace(PARAMETERS, views=64), 1, workers=2)
    assert len(next(stream)) == ct.BATCH
    assert max(asked) < 10
    stream.close()
    assert max(asked) < 10


def test_views_do_not_change_the_noise():
    few, many = (
        replace(PARAMETERS, views=views, photons=20 * PARAMETERS.photons * 180 / views) for views in (120, 360)
    )
    volume = cylinder(8)
    ratio = centre(ct.noise(volume, PIXEL, few, 1), 16).std() / centre(ct.noise(volume, PIXEL, many, 1), 16).std()
    assert ratio == pytest.approx(1, abs=0.05)


def test_truncated_body_gets_the_noise_of_the_whole_body():
    whole, crop = cylinder(8, 192, 160), cylinder(8, 192, 160)[:, 56:136, 56:136]
    parameters = ct.parameters_for(0.25, (80, 80), PIXEL, 3.0)
    assert parameters.extension_pixels == 40
    unit = replace(parameters, views=240, profile_slices=0.0)
    full = centre(ct.noise(whole, PIXEL, replace(unit, extension_pixels=0), 1)).std()
    continued = centre(ct.noise(crop, PIXEL, unit, 1)).std()
    naive = centre(ct.noise(crop, PIXEL, replace(unit, extension_pixels=0), 1)).std()
    assert continued == pytest.approx(full, rel=0.15)
    assert naive < 0.5 * full


def test_body_that_ends_inside_the_view_is_not_continued():
    small = cylinder(1, 80, 60)
    parameters = ct.parameters_for(0.25, (80, 80), PIXEL, 3.0)
    canvas = ct.attenuation(small[0], parameters)
    assert canvas.sum() == pytest.approx(ct.attenuation(small[0], replace(parameters, extension_pixels=0)).sum())


def test_flux_follows_exposure_thickness_and_voltage():
    record = case_record("CT", protocol={"exposure_mas": 100.0, "kvp": 120.0, "slice_thickness_mm": 2.0})
    base = ct.parameters_for(0.25, (128, 128), PIXEL, 9.0, record).photons
    thick = record.model_copy(update={"protocol": record.protocol.model_copy(update={"slice_thickness_mm": 4.0})})
    assert ct.parameters_for(0.25, (128, 128), PIXEL, 9.0, thick).photons == pytest.approx(2 * base, rel=1e-3)
    strong = record.model_copy(update={"protocol": record.protocol.model_copy(update={"exposure_mas": 300.0})})
    assert ct.parameters_for(0.25, (128, 128), PIXEL, 9.0, strong).photons == pytest.approx(3 * base, rel=1e-3)


def test_exposure_comes_from_the_record_its_current_or_the_default():
    def record(manufacturer="ACME", **protocol):
        case = case_record("CT", protocol={"kvp": 120.0, **protocol})
        return case.model_copy(update={"scanner": case.scanner.model_copy(update={"manufacturer": manufacturer})})

    assert exposure_mas(None) == exposure_mas(record()) == REFERENCE_MAS
    assert exposure_mas(record(exposure_mas=77.0)) == 77
    assert exposure_mas(record(tube_current_ma=300.0)) == 150
    assert exposure_mas(record(tube_current_ma=300.0, exposure_mas=60.0)) == 60
    # a GE scanner that would turn in a fifth of a second wrote something else than mAs
    assert exposure_mas(record("GE MEDICAL SYSTEMS", tube_current_ma=200.0, exposure_mas=42.0)) == 100
    assert exposure_mas(record("GE MEDICAL SYSTEMS", tube_current_ma=200.0, exposure_mas=120.0)) == 120


def test_calibration_finds_the_noise_that_a_scan_has():
    clean = cylinder(4, 160, 150)
    truth = ct.CtParameters(0.5, photons=4e6, electronic_variance=0.0, views=224, cutoff=0.8)
    scan = clean + ct.noise(clean, PIXEL, truth, seed=3)  # noise inserted at half the dose is that of the dose itself
    fitted = calibrate(scan, PIXEL, replace(truth, photons=5e5, cutoff=1.3))
    assert fitted.calibrated
    assert fitted.photons == pytest.approx(4e6, rel=0.2)
    assert fitted.cutoff == pytest.approx(0.8, abs=0.1)


def test_calibration_leaves_noise_free_phantoms_and_bare_lungs_alone():
    parameters = ct.CtParameters(0.25, photons=1e5, views=180)
    assert calibrate(cylinder(), PIXEL, parameters) == parameters
    assert calibrate(np.full((4, 64, 64), -800, np.float32), PIXEL, parameters) == parameters


def test_total_variance_of_a_noisy_scan_becomes_one_over_a():
    clean = cylinder(8, 160, 150)
    own = ct.CtParameters(0.5, photons=4e6, electronic_variance=0.0, views=224, cutoff=1.0)
    scan = clean + ct.noise(clean, PIXEL, own, seed=3)
    low, _ = degrade(Volume(scan, np.diag([PIXEL, PIXEL, 3.0, 1.0])), Task.CT_DENOISING, 0.25, seed=5)
    before, after = (np.median(spread(patches_of(centre(v, 48)))) for v in (scan, low.voxels))
    assert after / before == pytest.approx(2.0, rel=0.1)


def test_bow_tie_weakens_the_outer_rays_alone():
    volume, plain = cylinder(8), replace(PARAMETERS, photons=2e6)
    without = ct.noise(volume, PIXEL, plain, 1)
    filtered = ct.noise(volume, PIXEL, replace(plain, bowtie=0.5), 1)
    assert centre(filtered, 5).std() == pytest.approx(centre(without, 5).std(), rel=0.1)
    edge = (slice(None), slice(60, 68), slice(20, 26))  # 80 mm from the centre
    assert filtered[edge].std() > 1.05 * without[edge].std()


def test_padding_stays_and_air_is_cut_where_stored_ct_is():
    volume = cylinder(2)
    volume[:, :4] = -3024
    low = np.concatenate(list(ct.lower_dose(volume, PIXEL, replace(PARAMETERS, photons=1e3), 1)))
    np.testing.assert_array_equal(low[:, :4], -3024)
    assert low[:, 4:].min() >= -1024


def test_rays_lie_denser_towards_the_edge_of_the_fan():
    parameters = replace(PARAMETERS, source_mm=570.0)
    extra = ct.incident(400, 1.0, parameters)
    assert extra[0] == 0
    assert extra[150] == pytest.approx(-np.log(np.cos(np.arcsin(150 / 570))), rel=1e-4)
    assert extra[-150] == extra[150]


def test_sparse_views_leave_streaks_and_no_blur():
    volume = cylinder(2)
    volume[:, 40:46, 40:46] = 2000  # metal throws streaks
    bright = replace(PARAMETERS, photons=1e9)
    every = ct.noise(volume, PIXEL, bright, 1)
    some = ct.noise(volume, PIXEL, replace(bright, view_step=6), 1)
    assert every[:, 30:90, 30:90].std() < 1
    assert some[:, 30:90, 30:90].std() > 20
    assert abs(centre(some, 30).mean()) < 2
    sixth = ct.parameters_for(0.25, (SIDE, SIDE), PIXEL, 1.0, view_step=6)
    assert sixth.views % 6 == 0
