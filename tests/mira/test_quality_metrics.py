"""PSNR, SSIM and RMSE against hand-made values and independent implementations."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy.signal import convolve2d
from skimage.metrics import structural_similarity

from mira.cli import main
from mira.errors import ConfigurationError, DataRejected
from mira.quality.metrics import measure_slices, ssim_map, summarise
from mira.quality.profiles import PROFILES, profile_named
from mira.tasks import Modality
from mira.volume import Volume, write_nifti

RNG = np.random.default_rng(5)


def images(rows: int = 40, columns: int = 56) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.indices((rows, columns))
    reference = (60 * np.sin(y / 6) + 40 * np.cos(x / 5)).astype(np.float32)
    return reference[None], (reference + RNG.normal(0, 10, reference.shape)).astype(np.float32)[None]


def test_psnr_and_rmse_by_hand():
    reference = np.zeros((1, 16, 16), np.float32)
    reference[0, 0, 0], reference[0, 0, 1] = -160, 240  # data range 400
    test = reference + 4.0
    test[0, 0, 1] = 240
    result = measure_slices(reference, test, Modality.CT, "amir")
    error = 16 * 255 / 256
    assert result.rmse[0] == pytest.approx(error**0.5)
    assert result.psnr[0] == pytest.approx(10 * np.log10(400**2 / error))
    assert (result.profile, result.skipped, result.identical) == ("amir", 0, 0)


def test_truncation_to_the_window_comes_before_everything():
    reference, test = images()
    far = test.copy()
    reference[0, 3, 3], test[0, 3, 3], far[0, 3, 3] = 1500, 300, 2500
    one, two = (measure_slices(reference, t, Modality.CT, "amir") for t in (test, far))
    assert one.psnr[0] == two.psnr[0]
    assert measure_slices(reference, far, Modality.CT, "fixed").rmse[0] > 20


def test_data_range_is_that_of_each_reference_slice():
    reference, test = images()
    volume, noisy = np.concatenate([reference, reference / 2]), np.concatenate([test, test / 2])
    amir = measure_slices(volume, noisy, Modality.CT, "amir")
    assert amir.psnr[0] == pytest.approx(amir.psnr[1], abs=1e-4)
    fixed = measure_slices(volume, noisy, Modality.CT, "redcnn")
    assert fixed.psnr[1] - fixed.psnr[0] == pytest.approx(20 * np.log10(2), abs=1e-3)


@pytest.mark.parametrize("shape", [(40, 56), (64, 64)])
def test_ssim_equals_scikit_image_inside_and_a_zero_padded_convolution_everywhere(shape):
    (reference,), (test,) = images(*shape)
    data_range = float(reference.max() - reference.min())
    ours = ssim_map(reference, test, data_range)
    _, theirs = structural_similarity(
        reference.astype(np.float64), test.astype(np.float64), data_range=data_range, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    np.testing.assert_allclose(ours[5:-5, 5:-5], theirs[5:-5, 5:-5], atol=2e-5)
    g = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    window = np.outer(g, g) / g.sum() ** 2
    x, y = reference.astype(np.float64), test.astype(np.float64)
    mx, my, xx, yy, xy = (convolve2d(i, window, mode="same") for i in (x, y, x * x, y * y, x * y))
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    expected = (2 * mx * my + c1) * (2 * (xy - mx * my) + c2) / (
        (mx**2 + my**2 + c1) * (xx + yy - mx**2 - my**2 + c2)
    )  # fmt: skip
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_blank_slices_are_skipped_and_counted():
    reference, test = images()
    blank = np.full_like(reference, -1000)
    result = measure_slices(
        np.concatenate([blank, reference, blank]), np.concatenate([test, test, blank]), Modality.CT, "amir"
    )
    assert result.skipped == 2
    assert result.index.tolist() == [1]
    summary = summarise(measure_slices(blank, test, Modality.CT, "amir"))
    assert (summary.psnr_db, summary.ssim, summary.rmse, summary.skipped) == (None, None, None, 1)
    json.dumps(asdict(summary), allow_nan=False)


def test_identical_slices_have_no_finite_psnr_and_are_counted():
    reference, test = images()
    both = measure_slices(
        np.concatenate([reference, reference]), np.concatenate([reference, test]), Modality.CT, "amir"
    )
    summary = summarise(both)
    assert summary.identical == 1
    assert summary.psnr_db == pytest.approx(both.psnr[1])
    assert both.ssim[0] == pytest.approx(1)


def test_mean_of_decibels_over_slices():
    reference, test = images()
    mild = reference + (test - reference) / 10
    result = measure_slices(np.concatenate([reference] * 2), np.concatenate([test, mild]), Modality.CT, "amir")
    assert summarise(result).psnr_db == pytest.approx((result.psnr[0] + result.psnr[1]) / 2)


def test_robust_profile_does_not_see_a_site_s_intensity_scale():
    reference, test = (np.abs(image) + 20 for image in images())
    base = measure_slices(reference, test, Modality.MR, "robust", mr_scale=100)
    scaled = measure_slices(reference * 90, test * 90, Modality.MR, "robust", mr_scale=9000)
    np.testing.assert_allclose(base.psnr, scaled.psnr, atol=1e-3)
    np.testing.assert_allclose(base.rmse, scaled.rmse, rtol=1e-3)
    clipped = measure_slices(reference * 90, test * 90, Modality.MR, "amir")
    assert abs(clipped.psnr[0] - base.psnr[0]) > 1  # native values beyond 4095 are cut there


def test_what_is_not_defined_is_refused():
    reference, test = images()
    with pytest.raises(ConfigurationError, match="amir"):
        profile_named("psnr")
    with pytest.raises(ConfigurationError, match="CT only"):
        measure_slices(reference, test, Modality.PET, "redcnn")
    with pytest.raises(ConfigurationError, match="mr_scale"):
        measure_slices(reference, test, Modality.MR, "robust")
    with pytest.raises(DataRejected, match="shape"):
        measure_slices(reference, test[:, 1:], Modality.CT, "amir")
    test[0, 0, 0] = np.inf
    with pytest.raises(DataRejected, match="finite"):
        measure_slices(reference, test, Modality.CT, "amir")


def test_amir_defines_what_the_tables_use():
    windows = {m: PROFILES["amir"].convention(m).window for m in Modality}
    assert windows == {Modality.CT: (-160, 240), Modality.PET: (0, 20), Modality.MR: (0, 4095)}


def test_the_verb_measures_test_and_input(tmp_path, capsys):
    reference, test = images()
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    for name, voxels in {"a": reference, "b": (test + reference) / 2, "c": test}.items():
        write_nifti(tmp_path / f"{name}.nii", Volume(voxels, affine))
    command = [
        "measure",
        "--reference",
        str(tmp_path / "a.nii"),
        "--test",
        str(tmp_path / "b.nii"),
        "--profile",
        "amir",
    ]
    assert main([*command, "--modality", "CT", "--input", str(tmp_path / "c.nii"), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["test"]["psnr_db"] == pytest.approx(printed["input"]["psnr_db"] + 20 * np.log10(2), abs=1e-3)
    assert printed["test"]["profile"] == "amir"
    assert main([*command, "--modality", "CT"]) == 0
    assert "profile amir" in capsys.readouterr().out
    assert main(command) == 2  # a NIfTI file does not tell its modality
    assert main([*command[:-1], "nonsense", "--modality", "CT"]) == 2
    assert main(["measure", "--reference", str(tmp_path / "none"), *command[3:], "--modality", "CT"]) == 3
