"""SUVbw against hand calculations, its refusals, and the MR scale."""

import numpy as np
import pytest
from pydicom.dataset import Dataset

from mira.dicom.suv import pet_scale
from mira.dicom.units import mr_scale
from mira.dicom.volume import read_series
from mira.tasks import Unit
from tests.bench_sites import BENCH
from tests.mira.dicom_synthetic import make_header, make_series, pet_drug, pixels

DOSE, WEIGHT, HALF_LIFE = 370e6, 74.0, 6586.2


def pet(slices: int = 3, drug: dict | None = None, **changes) -> list:
    drugs = [pet_drug(**(drug or {}))]
    return [make_header("PT", n, RadiopharmaceuticalInformationSequence=drugs, **changes) for n in range(slices)]


def factor(elapsed: float, half_life: float = HALF_LIFE, dose: float = DOSE) -> float:
    return WEIGHT * 1000 / (dose * 0.5 ** (elapsed / half_life))


def test_start_decays_from_injection_to_series_time():
    scale = pet_scale(pet())
    assert scale.factor == pytest.approx(factor(3600), rel=1e-12)
    assert scale.dose is not None
    assert scale.dose.seconds_injection_to_reference == 3600
    assert scale.dose.decayed_dose_bq == pytest.approx(253.3e6, rel=1e-3)


def test_voxels_are_in_suv_and_lead_back_to_activity(tmp_path):
    found = read_series(make_series(tmp_path, "PT"))
    assert found.unit is Unit.SUVBW
    activity = found.volume.voxels[2] / found.suv_factor
    np.testing.assert_allclose(activity, pixels(2) * 0.5, rtol=1e-6)
    np.testing.assert_allclose(found.volume.voxels[2], pixels(2) * 0.5 * factor(3600), rtol=1e-6)


def test_administered_dose_needs_no_time():
    drug = {"RadiopharmaceuticalStartTime": ""}
    assert pet_scale(pet(drug=drug, DecayCorrection="ADMIN")).factor == pytest.approx(factor(0))


def test_uncorrected_images_decay_to_the_average_of_the_frame():
    slices = pet(DecayCorrection="NONE", CorrectedImage=["ATTN"], ActualFrameDuration=600000)
    rate = np.log(2) / HALF_LIFE
    average = np.log(rate * 600 / (1 - np.exp(-rate * 600))) / rate
    assert 295 < average < 300
    assert pet_scale(slices).factor == pytest.approx(factor(3600 + average), rel=1e-9)
    for number, header in enumerate(slices):
        header.AcquisitionTime = f"10000{number}"
    assert "not all acquired in one frame" in pet_scale(slices).refusal


def test_across_midnight():
    late = {"RadiopharmaceuticalStartTime": "233000.50"}
    slices = pet(drug=late, SeriesTime="003000", AcquisitionTime="003000")
    assert pet_scale(slices).factor == pytest.approx(factor(3599.5))
    exact = {"RadiopharmaceuticalStartDateTime": "20200101233000", "RadiopharmaceuticalStartTime": None}
    assert pet_scale(pet(drug=exact, SeriesTime="003000", AcquisitionTime="003000")).factor == pytest.approx(
        factor(3600)
    )


def test_reprocessed_series_uses_the_first_acquisition():
    slices = pet(SeriesTime="150000", ActualFrameDuration=None)
    slices[1].AcquisitionTime = "095500"
    assert pet_scale(slices).factor == pytest.approx(factor(3300))


def test_half_life_from_the_radionuclide():
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C-131A3", "SRT", "^68^Gallium"
    drug = {"RadionuclideHalfLife": None, "RadionuclideCodeSequence": [code]}
    assert pet_scale(pet(drug=drug)).factor == pytest.approx(factor(3600, 4062.6))


@pytest.mark.parametrize(
    ("drug", "changes", "words"),
    [
        ({}, {"PatientWeight": None}, "weight"),
        ({}, {"PatientWeight": 0}, "weight"),
        ({"RadionuclideTotalDose": None}, {}, "dose"),
        ({"RadionuclideTotalDose": "370"}, {}, "dose"),
        ({"RadiopharmaceuticalStartTime": None}, {}, "time of injection"),
        ({"RadiopharmaceuticalStartDateTime": "20190101090000"}, {}, "ten half-lives"),
        (
            {"RadiopharmaceuticalStartDateTime": "20200102110000", "RadiopharmaceuticalStartTime": None},
            {},
            "negative",
        ),
        ({"RadiopharmaceuticalStartDateTime": "20200102083000"}, {}, "contradict"),
        ({"RadionuclideTotalDose": "370"}, {}, "MBq"),
        ({"RadionuclideHalfLife": "282276"}, {}, "days before"),
        ({}, {"DecayCorrection": "NONE"}, "contradict"),
        ({"RadionuclideHalfLife": None}, {}, "half-life"),
        ({"RadionuclideHalfLife": "109.77", "Radiopharmaceutical": "FDG F-18"}, {}, "does not belong"),
        ({}, {"DecayCorrection": None}, "START, ADMIN or NONE"),
        ({}, {"CorrectedImage": ["DECY"]}, "attenuation"),
        ({}, {"CorrectedImage": ["ATTN"]}, "contradict"),
    ],
)
def test_what_is_missing_is_never_guessed(drug, changes, words):
    scale = pet_scale(pet(drug=drug, **changes))
    assert words in scale.refusal
    assert scale.factor == 1.0
    assert scale.dose is None


def test_gml_is_suvbw_unless_it_says_otherwise():
    scale = pet_scale(pet(Units="GML", SUVType="BW"))
    assert (scale.factor, scale.refusal, scale.warnings) == (1.0, "", [])
    assert pet_scale(pet(Units="GML")).warnings == ["suv-type-missing"]


def test_mr_scale_ignores_air_and_outliers():
    rng = np.random.default_rng(0)
    volume = rng.rayleigh(4, (6, 80, 80)).astype(np.float32)
    volume[:, 20:60, 20:60] = rng.uniform(100, 900, (6, 40, 40))
    alone = mr_scale(volume)
    assert 880 < alone < 900
    wide = np.pad(volume, ((0, 0), (40, 40), (40, 40)), constant_values=1)
    assert mr_scale(wide) == pytest.approx(alone, rel=0.01)
    volume[0, 0, 0] = 1e6
    assert mr_scale(volume) == pytest.approx(alone, rel=0.01)
    assert mr_scale(volume * 7) == pytest.approx(7 * mr_scale(volume))


@pytest.mark.bench
@pytest.mark.skipif(not BENCH.is_dir(), reason="the real scans (MIRA_BENCH) are not here")
def test_real_pet_against_a_hand_calculation():
    found = read_series((BENCH / "train" / "site-mcgill" / "PET" / "STS_001_raw").iterdir())
    # 71 kg, 388.777472 MBq at 10:35:00, scan at 11:20:11, half-life 6588 s; stored value 6531 at slope 1.89...
    by_hand = 71000 / (388777472 * 2 ** (-2711 / 6588))
    assert found.suv_factor == pytest.approx(by_hand, rel=1e-9)
    assert found.volume.voxels.shape == (267, 128, 128)
    assert found.volume.voxels[60, 64, 64] == pytest.approx(12.362667, rel=1e-5)
