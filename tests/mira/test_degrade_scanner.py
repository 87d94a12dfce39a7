"""A scanner fitted to phantom scans of known physics, and the fit put to use."""

import argparse
import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import yaml

from mira.degrade.ct_acquisition import simulate_acquisition
from mira.degrade.ct_parameters import BOWTIE_SHARE, SOURCE_MM, parameters_for
from mira.degrade.interface import degrade
from mira.degrade.options import read_options
from mira.degrade.phantom_noise import PhantomScan, expected_spectrum, noise_of, spectrum
from mira.degrade.scanner import CtScanner, scanner_of
from mira.degrade.scanner_fit import fit_scanner
from mira.degrade.scanner_verb import add_calibrate
from mira.errors import ConfigurationError, DataRejected
from mira.tasks import Task
from mira.volume import Volume
from tests.mira.case_records import case_record
from tests.mira.dicom_synthetic import make_header, write

SIDE, PIXEL, THICK, KVP = 160, 1.6, 2.0, 120.0
TRUE = CtScanner(flux_per_mas=8.0e5, electronic_density=2.0e5, cutoff_per_mm=0.34, kvp=KVP)
EXPOSURES = (5.0, 15.0, 60.0, 240.0)


@cache
def phantom_scan(mas: float, repeat: int, slices: int = 8) -> PhantomScan:
    """Water of 160 mm, scanned by the count-domain model on the true scanner."""
    y, x = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    water = np.where(np.hypot(y, x) * PIXEL < 80, 0, -1000).astype(np.float32)
    geometry = parameters_for(1.0, (SIDE, SIDE), PIXEL, THICK, body_diameter_mm=0)
    parameters = TRUE.apply(geometry, PIXEL, THICK, mas)
    hu = simulate_acquisition(np.repeat(water[None], slices, 0), PIXEL, parameters, seed=int(10 * mas) + repeat)
    return PhantomScan(hu, PIXEL, THICK, THICK, mas, KVP, "B30f")


def repeats() -> list[PhantomScan]:
    return [phantom_scan(mas, repeat) for mas in EXPOSURES for repeat in (0, 1)]


def test_the_known_scanner_is_recovered():
    fit = fit_scanner(repeats())
    assert fit.scanner.flux_per_mas == pytest.approx(TRUE.flux_per_mas, rel=0.05)
    assert fit.scanner.electronic_density == pytest.approx(TRUE.electronic_density, rel=0.2)
    assert fit.scanner.cutoff_per_mm == pytest.approx(TRUE.cutoff_per_mm, rel=0.03)
    assert abs(np.log(fit.scanner.flux_per_mas / TRUE.flux_per_mas)) < 3 * fit.flux_error
    assert abs(np.log(fit.scanner.electronic_density / TRUE.electronic_density)) < 3 * fit.electronic_error
    assert [point.mas for point in fit.points] == list(EXPOSURES)
    for point in fit.points:
        assert point.centre_fit_hu == pytest.approx(point.centre_hu, rel=0.04)
        assert point.ring_fit_hu == pytest.approx(point.ring_hu, rel=0.05)
    np.testing.assert_allclose(fit.nps_fit[2:20], fit.nps[2:20], rtol=0.2)


def test_single_scans_do_too_where_they_are_long_enough():
    fit = fit_scanner([phantom_scan(mas, 0) for mas in EXPOSURES])
    assert fit.scanner.flux_per_mas == pytest.approx(TRUE.flux_per_mas, rel=0.08)
    short = [replace(phantom_scan(mas, 0), hu=phantom_scan(mas, 0).hu[:3]) for mas in EXPOSURES]
    with pytest.raises(DataRejected, match="Scan twice"):
        fit_scanner(short)


def test_repeats_cancel_what_is_not_noise():
    one, two = phantom_scan(60.0, 0), phantom_scan(60.0, 1)
    rings = 30 * np.sin(np.indices((SIDE, SIDE))[1] / 3).astype(np.float32)
    disturbed = noise_of([replace(one, hu=one.hu + rings), replace(two, hu=two.hu + rings)])
    np.testing.assert_allclose(disturbed, noise_of([one, two]), atol=1e-3)


def test_the_expected_spectrum_is_that_of_reconstructed_noise():
    from mira.degrade.ct_projector import bins_for, borrowed

    rng, side, views = np.random.default_rng(0), 96, 180
    with borrowed(side, views) as engine:
        size = (views, bins_for(side))
        fields = [engine.reconstruct(None, 1.2, noise=rng.standard_normal(size, dtype=np.float32)) for _ in range(60)]
    seen = np.stack(fields)[:, 32:64, 32:64]
    power, variance = expected_spectrum(1.2, 32, views)
    assert seen.var() == pytest.approx(variance, rel=0.03)
    np.testing.assert_allclose(spectrum(seen)[1:22], power[1:22], rtol=0.15, atol=0.01 * power.max())


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda scans: scans[:2], "too close"),
        (lambda scans: [*scans[:-1], replace(scans[-1], kernel="B70f")], "kernel"),
        (lambda scans: [replace(scan, hu=scan.hu - 400) for scan in scans], "disc of water"),
        (lambda scans: [], "no scans"),
    ],
)
def test_scans_that_cannot_be_fitted_are_refused(change, why):
    with pytest.raises(DataRejected, match=why):
        fit_scanner(change(repeats()))


def calibrate(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    add_calibrate(parser.add_subparsers())
    parsed = parser.parse_args(["calibrate", *arguments])
    return parsed.run(parsed)


def test_the_verb_writes_what_degrade_takes(tmp_path, capsys):
    for index, (mas, repeat) in enumerate((mas, repeat) for mas in EXPOSURES for repeat in (0, 1)):
        stored = np.rint(np.clip(phantom_scan(mas, repeat).hu, -1024, 3000) + 1024).astype(np.int16)
        common = {"Exposure": int(mas), "KVP": KVP, "ConvolutionKernel": "B30f", "SliceThickness": THICK}
        slices = [
            make_header(
                "CT", number, plane, SeriesInstanceUID=f"1.2.3.{index}", SOPInstanceUID=f"1.2.3.{index}.{number}",
                PixelSpacing=[PIXEL, PIXEL], **common,
            )
            for number, plane in enumerate(stored)
        ]  # fmt: skip
        write(tmp_path / f"scan{index}", slices)
    out = tmp_path / "scanner.yaml"
    assert calibrate("--scans", *map(str, sorted(tmp_path.glob("scan*"))), "--out", str(out), "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.with_suffix(".json").read_text())
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    options = read_options(out)[Task.CT_DENOISING]
    assert yaml.safe_load(out.read_text()) == {"ct-denoising": options}
    fitted = scanner_of(options)
    assert fitted.flux_per_mas == pytest.approx(TRUE.flux_per_mas, rel=0.05)  # HU are rounded to integers

    # half the dose of 60 mAs adds the noise of 60 mAs again (and a little more, for its electronic part)
    scan = phantom_scan(60.0, 0)
    volume = Volume(scan.hu, np.diag([PIXEL, PIXEL, THICK, 1.0]))
    facts = {"exposure_mas": 60.0, "kvp": KVP, "slice_thickness_mm": THICK}
    record = case_record("CT", facts, shape=scan.hu.shape, spacing_mm=(THICK, PIXEL, PIXEL))
    # the bow-tie and geometry of the phantom's own scan: nothing lies outside this field of view
    whole = {**options, "extension_pixels": 0, "bowtie": BOWTIE_SHARE, "source_mm": SOURCE_MM}
    low, physics = degrade(volume, Task.CT_DENOISING, 0.5, 3, record, options=whole)
    middle = np.s_[:, 65:95, 65:95]
    own = noise_of([scan, phantom_scan(60.0, 1)])[middle].std()
    assert (low.voxels - scan.hu)[middle].std() == pytest.approx(own, rel=0.08)
    assert physics.parameters["calibrated"] is True


def test_a_scanner_is_used_whole_and_only_where_it_holds():
    volume = Volume(phantom_scan(60.0, 0).hu, np.diag([PIXEL, PIXEL, THICK, 1.0]))
    options = {"flux_per_mas": 8e5, "electronic_density": 1e4, "cutoff_per_mm": 0.34, "kvp": 120.0}
    with pytest.raises(ConfigurationError, match="cutoff_per_mm"):
        degrade(volume, Task.CT_DENOISING, 0.5, 0, options={"flux_per_mas": 8e5})
    with pytest.raises(DataRejected, match="exposure_mas"):
        degrade(volume, Task.CT_DENOISING, 0.5, 0, options=options)
    _, physics = degrade(volume, Task.CT_DENOISING, 0.5, 0, options={**options, "exposure_mas": 100})
    views = physics.parameters["views"]
    assert physics.parameters["photons"] == pytest.approx(8e5 * 100 * PIXEL * THICK / views, rel=1e-5)
    assert physics.parameters["cutoff"] == pytest.approx(0.34 * 2 * PIXEL, rel=1e-3)
    other = case_record("CT", {"exposure_mas": 100.0, "kvp": 80.0}, shape=volume.voxels.shape)
    with pytest.raises(DataRejected, match="80 kVp"):
        degrade(volume, Task.CT_DENOISING, 0.5, 0, other, options=options)
