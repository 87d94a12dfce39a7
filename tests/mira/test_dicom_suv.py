"""SUVbw from counts, SUV and activity: factors, dose calibration, SUV types, times, and what the record keeps."""

from pathlib import Path

import numpy as np
import pytest

from mira.dicom.derive import simulated_by, write_derived
from mira.dicom.reasons import Reason, Refused
from mira.dicom.suv import pet_scale
from mira.dicom.volume import read_series
from mira.tasks import Unit
from tests.bench_sites import BENCH
from tests.mira.dicom_synthetic import make_header, pet_drug, pixels, write
from tests.suv_by_hand import FOLDER, by_hand, table

PER_BQML = 74 * 1000 / (370e6 * 0.5 ** (3600 / 6586.2))
RATE = np.log(2) / 6586.2
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "dicom-input.md"


def philips(
    creator: str = "Philips PET Private Group", unit: str = "CNTS", drug: dict | None = None, **factors
) -> list:
    """Slices in counts with Philips' private factors `suv` and `activity`, in block 0x11 of the group."""
    changes = {keyword: factors.pop(keyword) for keyword in list(factors) if keyword[0].isupper()}
    slices = []
    for number in range(3):
        drugs = [pet_drug(**(drug or {}))]
        ds = make_header("PT", number, Units=unit, RadiopharmaceuticalInformationSequence=drugs, **changes)
        ds.private_block(0x7053, "Someone Else", create=True).add_new(0x00, "DS", "123")
        block = ds.private_block(0x7053, creator, create=True)
        for element, name in ((0x00, "suv"), (0x09, "activity")):
            if name in factors:
                block.add_new(element, "DS", factors[name])
        slices.append(ds)
    return slices


def test_counts_by_philips_suv_factor(tmp_path):
    slices = philips(suv="0.000512", drug={"RadionuclideTotalDose": None})
    found = read_series(write(tmp_path, slices))
    assert found.unit is Unit.SUVBW
    np.testing.assert_allclose(found.volume.voxels[1], pixels(1) * 0.5 * 0.000512, rtol=1e-6)
    assert found.conversion.source_unit == "CNTS"
    assert found.conversion.inputs["philips_suv_factor"] == 0.000512
    assert "suv-factor-not-checked" in found.warnings
    assert found.pet_dose is None


def test_counts_by_philips_activity_factor(tmp_path):
    found = read_series(write(tmp_path, philips(activity="2.5")))
    assert found.unit is Unit.SUVBW
    assert found.suv_factor == pytest.approx(2.5 * PER_BQML, rel=1e-12)
    assert found.pet_dose is not None
    assert found.conversion.formula.startswith("SUVbw = CNTS * philips_activity_factor * 1000 * weight_kg")


def test_suv_factor_that_agrees_with_the_activity_is_taken_without_a_warning():
    scale = pet_scale(philips(suv=f"{2.5 * PER_BQML * 1.01:.10g}", activity="2.5"))
    assert scale.factor == pytest.approx(2.5 * PER_BQML * 1.01)
    assert scale.warnings == []
    assert scale.dose is not None


@pytest.mark.parametrize("unit", ["CNTS", "PROPCPS"])
def test_activity_without_a_weight_stays_activity(tmp_path, unit):
    found = read_series(write(tmp_path, philips(unit=unit, activity="2.5", PatientWeight=None)))
    assert found.unit is Unit.BQML
    assert "weight" in found.unit_refusal
    np.testing.assert_allclose(found.volume.voxels[2], pixels(2) * 0.5 * 2.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("slices", "words"),
    [
        (lambda: philips(), "no factor"),
        (lambda: philips(creator="Not Philips", suv="0.1", activity="2"), "no factor"),
        (lambda: philips(suv="0"), "no factor"),
        (lambda: philips(suv="-1"), "no factor"),
        (lambda: philips(suv="0.5", activity="2.5"), "contradict"),
        (lambda: philips(suv="0.5", CorrectedImage=["DECY"]), "attenuation"),
        (lambda: philips(DoseCalibrationFactor="3"), "no factor"),
        (
            lambda: philips(unit="PROPCPS", DoseCalibrationFactor="3", CorrectedImage=["ATTN", "DECY", "DCAL"]),
            "no factor",
        ),
    ],
)
def test_counts_without_a_trustworthy_factor_are_refused(slices, words):
    with pytest.raises(Refused, match=words) as refused:
        pet_scale(slices())
    assert refused.value.reason is Reason.PET_COUNTS


def test_factors_that_differ_between_slices_are_none():
    slices = philips(suv="0.1")
    slices[1].private_block(0x7053, "Philips PET Private Group")[0x00].value = "0.2"
    with pytest.raises(Refused):
        pet_scale(slices)


@pytest.mark.parametrize("unit", ["CPS", "PROPCPS"])
def test_count_rates_by_the_dose_calibration_factor_where_it_is_not_applied(unit):
    slices = [make_header("PT", n, Units=unit, DoseCalibrationFactor="3") for n in range(3)]
    scale = pet_scale(slices)
    assert scale.factor == pytest.approx(3 * PER_BQML)
    assert scale.warnings == ["dose-calibration-factor-applied"]
    assert scale.inputs["dose_calibration_factor"] == 3


@pytest.mark.parametrize("kind", ["LBM", "LBMJAMES128", "LBMJANMA", "BSA", "IBW"])
def test_other_suv_types_are_refused(kind):
    with pytest.raises(Refused) as refused:
        pet_scale([make_header("PT", n, Units="GML", SUVType=kind) for n in range(3)])
    assert refused.value.reason is Reason.NOT_SUVBW


@pytest.mark.parametrize("unit", ["", "CM2ML", "PCNT", "MLMINML"])
def test_other_units_are_refused(unit):
    with pytest.raises(Refused) as refused:
        pet_scale([make_header("PT", n, Units=unit) for n in range(3)])
    assert refused.value.reason is Reason.NO_PET_UNIT


def test_mixed_units_are_refused():
    with pytest.raises(Refused):
        pet_scale([make_header("PT", n, Units=["BQML", "GML", "BQML"][n]) for n in range(3)])


@pytest.mark.parametrize(
    ("zone", "stated", "hours"),
    [("+0100", "20200102090000+0000", 0), ("+0100", "20200102080000+0000", 1), ("", "20200102090000+0500", 1)],
)
def test_time_zones(zone, stated, hours):
    drug = pet_drug(RadiopharmaceuticalStartTime=None, RadiopharmaceuticalStartDateTime=stated)
    changes = {"TimezoneOffsetFromUTC": zone or None, "RadiopharmaceuticalInformationSequence": [drug]}
    scale = pet_scale([make_header("PT", n, **changes) for n in range(3)])
    assert scale.inputs["seconds_injection_to_reference"] == hours * 3600


def test_ge_scan_time_is_taken_from_the_block_of_its_creator():
    slices = with_ge_scan_time(other="20200102093000")
    assert pet_scale(slices).inputs["seconds_injection_to_reference"] == 3000


def test_altered_series_time_is_computed_back_from_the_frame():
    slices = [make_header("PT", n, SeriesTime="150000", FrameReferenceTime="360000") for n in range(3)]
    average = np.log(RATE * 120 / (1 - np.exp(-RATE * 120))) / RATE
    assert pet_scale(slices).inputs["seconds_injection_to_reference"] == pytest.approx(3600 - (360 - average))


@pytest.mark.parametrize(("moved_s", "warned"), [(0, False), (-30, False), (-1200, True)])
def test_the_decay_factor_checks_the_moment_of_decay_correction(moved_s, warned):
    average = np.log(RATE * 120 / (1 - np.exp(-RATE * 120))) / RATE
    factor = f"{np.exp(RATE * (average - moved_s)):.8f}"
    scale = pet_scale([make_header("PT", n, DecayFactor=factor) for n in range(3)])
    assert ("decay-factor-disagrees" in scale.warnings) is warned


def test_record_holds_formula_and_inputs_but_no_moment(tmp_path):
    found = read_series(write(tmp_path, [make_header("PT", n, RescaleSlope=n + 1) for n in range(3)]))
    record = found.conversion
    names = {"weight_kg", "injected_dose_bq", "half_life_s", "seconds_injection_to_reference", "slope_lowest"}
    assert names <= set(record.inputs)
    assert all(name in record.formula for name in names - {"slope_lowest"})
    assert (record.inputs["slope_lowest"], record.inputs["slope_highest"]) == (1, 3)
    # the formula with its inputs gives the factor again
    scope = {key: value for key, value in record.inputs.items() if key in record.formula} | {"BQML": 1.0}
    expression = record.formula.split(";")[0].split("=")[1].replace("^", "**")
    assert eval(expression, {}, scope) == pytest.approx(record.factor, rel=1e-12)
    assert not {"20200102", "100000", "090000"} & set(record.model_dump_json().replace('"', " ").split())


@pytest.mark.bench
@pytest.mark.skipif(not BENCH.is_dir(), reason="the real scans (MIRA_BENCH) are not here")
def test_real_pet_at_five_voxels_against_the_calculation_by_hand():
    fields, voxels = by_hand(FOLDER)
    found = read_series(FOLDER.iterdir())
    assert len(voxels) == 5
    assert found.conversion.factor == pytest.approx(fields.suv_per_bqml, rel=1e-12)
    for voxel in voxels:
        assert found.volume.voxels[voxel.index] == pytest.approx(voxel.suv, rel=1e-6)


@pytest.mark.bench
@pytest.mark.skipif(not BENCH.is_dir(), reason="the real scans (MIRA_BENCH) are not here")
def test_the_reference_page_shows_what_the_command_prints():
    rows = [line for line in table(FOLDER).splitlines() if line.startswith("| ")]
    assert len(rows) == 6
    page = PAGE.read_text(encoding="utf-8")
    assert all(row in page for row in rows)


def with_ge_scan_time(other: str = "") -> list:
    """Slices of a reprocessed series with GE's scan time, and the same element of another creator's block."""
    slices = [make_header("PT", n, SeriesTime="150000") for n in range(3)]
    for ds in slices:
        ds.private_block(0x0009, "SOMEONE", create=True).add_new(0x0D, "DT", other)
        ds.private_block(0x0009, "GEMS_PETD_01", create=True).add_new(0x0D, "DT", "20200102095000")
    return slices


@pytest.mark.parametrize(
    "slices", [lambda: philips(suv="0.000512"), lambda: philips(activity="2.5"), with_ge_scan_time]
)
def test_a_derived_series_leads_to_the_same_suv(tmp_path, slices):
    source = read_series(write(tmp_path / "in", slices()))
    again = read_series(
        write_derived(source, source.volume.voxels, tmp_path / "out", simulated_by("test 1", "nothing"))
    )
    assert again.unit is Unit.SUVBW
    assert again.suv_factor == pytest.approx(source.suv_factor, rel=1e-9)
    np.testing.assert_allclose(again.volume.voxels, source.volume.voxels, rtol=1e-3, atol=1e-4)
