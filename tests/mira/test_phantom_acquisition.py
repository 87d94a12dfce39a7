from dataclasses import replace

import numpy as np
import pytest

from mira.phantom.acquisition import ct_scan, mr_scan, pet_scan
from mira.phantom.fleet import SITES
from mira.phantom.noise import rng_for
from mira.phantom.raster import Grid
from mira.phantom.tissue import HEAD, Sequence, mr_signal

BOX = ((-100.0, 100.0), (-200.0, 200.0), (-200.0, 200.0))


def disc(size, radius, inside, outside, slices=6):
    rows, columns = np.mgrid[0:size, 0:size] - (size - 1) / 2
    plane = np.where(np.hypot(rows, columns) < radius, inside, outside).astype(np.float32)
    return np.repeat(plane[None], slices, axis=0)


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.id)
def test_ct_noise_has_the_declared_level_no_bias_and_less_of_it_at_the_edge(site):
    grid = Grid((0, 0, 0), 256, 1.5, 6, 5.0)
    water = disc(256, 100, 0.0, -1000.0)
    scan = ct_scan(water, grid, site.ct, rng_for("ct", site.id))
    middle, edge = scan[:, 118:138, 118:138], scan[:, 118:138, 38:48]
    assert middle.std() == pytest.approx(site.ct.noise_hu, rel=0.15)
    assert abs(middle.mean()) < 0.6
    assert edge.std() < 0.85 * middle.std()


def test_ct_noise_is_band_passed_and_a_sharper_kernel_shifts_it_up():
    grid = Grid((0, 0, 0), 256, 1.0, 12, 5.0)
    peaks = {}
    for site in SITES:
        protocol = replace(site.ct, noise_hu=10.0)
        scan = ct_scan(np.full((12, 256, 256), -1000.0, dtype=np.float32), grid, protocol, rng_for("nps"))
        power = (np.abs(np.fft.fft2(scan - scan.mean(axis=(1, 2), keepdims=True))) ** 2).mean(axis=0)
        f = np.hypot(*np.meshgrid(np.fft.fftfreq(256), np.fft.fftfreq(256)))
        radial = np.bincount((f * 256).astype(int).ravel(), power.ravel()) / np.bincount((f * 256).astype(int).ravel())
        peaks[site.ct.kernel] = np.argmax(radial[:128]) / 256
        assert radial[1:4].mean() < 0.3 * radial.max()
        assert radial[120:126].mean() < 0.5 * radial.max()
    assert peaks["C"] > peaks["B30f"]


def test_pet_keeps_activity_and_noise_follows_it():
    protocol = SITES[0].pet
    grid = Grid((0, 0, 0), 96, 4.0, 12, 4.0)
    truth = disc(96, 38, 1.0, 0.0, slices=12) + disc(96, 16, 3.0, 0.0, slices=12)
    scan = pet_scan(truth, grid, protocol, rng_for("pet"))
    hot, cold = scan[:, 40:56, 40:56], scan[:, 40:56, 14:22]
    assert hot.mean() == pytest.approx(4.0, rel=0.02)
    assert cold.mean() == pytest.approx(1.0, rel=0.03)
    assert hot.std() / hot.mean() == pytest.approx(protocol.noise_fraction, rel=0.3)
    assert hot.std() > 2 * cold.std()
    flat = hot - hot.mean()
    neighbours = np.mean(flat[:, :, 1:] * flat[:, :, :-1]) / flat.var()
    assert neighbours > 0.3
    assert scan.min() >= 0


def test_mr_is_a_magnitude_with_rician_air_and_truncated_k_space():
    protocol = replace(SITES[0].mr, bias=0.0, snr=20.0)
    grid = Grid((0, 0, 0), 128, 1.5, 8, 5.0)
    truth = disc(128, 40, 1000.0, 0.0, slices=8)
    scan = mr_scan(truth, grid, protocol, 1000.0, BOX, rng_for("mr"))
    air = scan[:, :12, :12]
    assert air.mean() == pytest.approx(50.0 * np.sqrt(np.pi / 2), rel=0.1)
    assert scan[:, 54:74, 54:74].mean() == pytest.approx(1000.0, rel=0.02)
    assert scan[:, 54:74, 54:74].std() == pytest.approx(50.0, rel=0.2)
    offset = truth + 500.0  # far from zero a magnitude is linear
    clean = mr_scan(offset, grid, replace(protocol, snr=1e6), 1000.0, BOX, rng_for("mr"))
    power = np.abs(np.fft.fft2(clean[0])) ** 2
    assert power[62:67].sum() < 0.05 * power[44:49].sum()  # rows beyond 80 % of k-space are empty


def test_fluid_is_dark_on_t1_and_bright_on_t2():
    for site in SITES:
        t1, t2 = site.mr.sequences
        ranks = {
            s.name: {n: mr_signal(HEAD[n], s, site.mr.field_t) for n in ("csf", "white", "grey")} for s in (t1, t2)
        }
        assert ranks["T1"]["csf"] < ranks["T1"]["grey"] < ranks["T1"]["white"]
        assert ranks["T2"]["csf"] > ranks["T2"]["grey"] > ranks["T2"]["white"]


def test_signal_equations_in_their_limits():
    tissue = HEAD["white"]
    assert mr_signal(tissue, Sequence("PD", "SE", 1e9, 0.0), 1.5) == pytest.approx(tissue.density)
    assert mr_signal(tissue, Sequence("T1", "GR", 1e9, 0.0, flip_deg=90), 1.5) == pytest.approx(tissue.density)
