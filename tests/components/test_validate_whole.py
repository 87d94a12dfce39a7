"""Validation of sites and of the data set as a whole: bad sites, mixes, splits, drift since the last accepted one."""

from math import comb

import numpy as np
import pytest
import yaml

from components.validate.drift import ALL, compare, distributions, psi_of_numbers
from components.validate.facts import case_facts
from components.validate.relations import WHOLE, dataset_facts, relate
from components.validate.step import ROOT, ValidateConfig, validate
from components.validate.voxels import voxel_facts
from mira.cases import Protocol, Scanner, iterate_cases
from mira.errors import ConfigurationError, DataRejected
from mira.pairs import PairIndex, read_index, write_index
from mira.storage import read_json, write_json
from mira.tasks import Modality
from tests.components.made_up import body, make_case, make_cases, make_pairs

SMALL = ValidateConfig(minimum_train_patients=1)


def make_set(root, noise: float = 10.0, patients: int = 8, **changes) -> None:
    """CT of a train and a local site; noise in HU."""
    for site, role in (("alpha", "train"), ("gamma", "local")):
        for number in range(patients):
            clean = np.round(body(Modality.CT, 0) / 500) * 500
            rng = np.random.default_rng(sum(map(ord, site)) + 1000 * number)
            level = noise * (1 + 0.02 * number)
            voxels = clean + level * rng.standard_normal(clean.shape)
            make_case(root, site, number, Modality.CT, role, voxels=voxels, **changes)


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """An accepted data set: folder of its validation."""
    root = tmp_path_factory.mktemp("before")
    make_set(root / "cases")
    validate(root / "cases", root / "out", SMALL)
    return root / "out"


def test_the_same_data_set_has_not_drifted(before, tmp_path):
    make_set(tmp_path / "cases")
    config = SMALL.model_copy(update={"baseline": before / "profile.json"})
    assert validate(tmp_path / "cases", tmp_path / "out", config).drifted == 0
    drift = read_json(tmp_path / "out" / "validation.json")["drift"]
    assert {row["scope"] for row in drift} == {ALL, "alpha", "gamma"}
    assert all(row["psi"] < 0.01 and row.get("ks_p", 1) == 1 for row in drift if "psi" in row)


def test_drift_is_found_and_its_new_words_are_named(before, tmp_path):
    changes = {
        "scanner": Scanner(manufacturer="Made Up Medical", model="Two", software="build 20240131"),
        "protocol": Protocol(slice_thickness_mm=3.0, kernel="sharp", exposure_mas=120.0),
    }
    make_set(tmp_path / "cases", noise=25.0, **changes)
    config = SMALL.model_copy(update={"baseline": before})
    summary = validate(tmp_path / "cases", tmp_path / "out", config)
    result = read_json(tmp_path / "out" / "validation.json")
    failed = {o["code"]: set(o["failed"]) for o in result["expectations"] if o["suite"] == "drift"}
    assert failed["distribution-kept"] >= {"CT noise, all sites", "CT noise, alpha", "CT noise, gamma"}
    assert not any("thickness" in row or "kvp" in row for row in failed["distribution-kept"])
    assert "CT kernel, all sites" in failed["no-new-words"]
    words = {row["feature"]: row for row in result["drift"] if row["scope"] == ALL and row["kind"] == "words"}
    assert words["scanner"]["new"] == ["Made Up Medical Two"]
    assert (words["kernel"]["new"], words["kernel"]["lost"]) == (["sharp"], ["soft"])
    assert summary.drifted == len(set().union(*failed.values()))
    page = (tmp_path / "out" / "docs" / "index.html").read_text()
    assert "Made Up Medical Two" in page
    assert "<code>sharp</code>" in page


def test_a_must_about_drift_stops_the_run(before, tmp_path):
    suite = yaml.safe_load((ROOT / "data" / "expectations" / "drift.yaml").read_text())
    suite["expectations"][0]["severity"] = "must"
    write_json(tmp_path / "suites" / "drift.yaml", suite)
    make_set(tmp_path / "cases", noise=25.0)
    config = SMALL.model_copy(update={"baseline": before, "suites": tmp_path / "suites"})
    with pytest.raises(DataRejected, match="distribution-kept, CT noise, all sites"):
        validate(tmp_path / "cases", tmp_path / "out", config)
    refused = config.model_copy(update={"baseline": tmp_path / "out"})
    with pytest.raises(ConfigurationError, match="was not accepted"):
        validate(tmp_path / "cases", tmp_path / "other", refused)


@pytest.mark.parametrize(("content", "message"), [(None, "no profile at"), ([], "by another version")])
def test_a_baseline_that_cannot_be_used_is_told(tmp_path, content, message):
    make_case(tmp_path / "cases", "alpha", 0, Modality.CT)
    if content is not None:
        write_json(tmp_path / "profile.json", content)
    with pytest.raises(ConfigurationError, match=message):
        validate(tmp_path / "cases", tmp_path / "out", ValidateConfig(baseline=tmp_path))


def test_a_patient_counts_once_and_statistics_are_exact(tmp_path):
    for number in range(6):
        make_case(tmp_path, "alpha", number, Modality.CT, patient=f"patient-{number // 2}")
    judged = [(record, case_facts(folder, record)) for folder, record in iterate_cases(tmp_path)]
    now = distributions(judged)
    assert len(now["CT"][ALL]["values"]["noise"]) == now["CT"][ALL]["patients"] == 3
    levels = [row["noise"] for _, row in judged]
    assert now["CT"][ALL]["values"]["noise"][0] == pytest.approx(
        min(np.mean(levels[i : i + 2]) for i in (0, 2, 4)), rel=1e-5
    )
    before = {"CT": {ALL: {**now["CT"][ALL], "values": {"noise": [1.0, 2.0, 3.0, 4.0]}}}}
    row = next(row for row in compare(before, now) if row["feature"] == "noise")
    assert row["ks"] == 1
    assert row["ks_p"] == pytest.approx(2 / comb(7, 3))  # two of all ways to order 4 and 3 values separate them


def test_stability_index_by_hand_and_why_it_does_not_judge_alone():
    # two bins cut at 2.5; with half a count each: 2.5/5 and 2.5/5 before, 0.5/5 and 4.5/5 now
    by_hand = (0.1 - 0.5) * np.log(0.1 / 0.5) + (0.9 - 0.5) * np.log(0.9 / 0.5)
    assert psi_of_numbers(np.array([1.0, 2, 3, 4]), np.array([5.0, 6, 7, 8])) == pytest.approx(by_hand)
    rng = np.random.default_rng(3)
    alike = [(rng.standard_normal(20), rng.standard_normal(20)) for _ in range(100)]
    values = {"CT": {}}
    flagged = 0
    for before, now in alike:
        parts = [
            {"CT": {ALL: {"values": {"noise": list(x)}, "words": {kind: {} for kind in WORDS}}}} for x in (before, now)
        ]
        row = next(row for row in compare(*parts) if row["feature"] == "noise")
        values["CT"].setdefault("psi", []).append(row["psi"])
        flagged += row["psi"] >= 0.25 and row["ks_p"] < 0.001
    assert np.mean(np.array(values["CT"]["psi"]) >= 0.25) > 0.5  # the index alone would cry wolf
    assert flagged == 0


WORDS = ("scanner", "software", "kernel", "reconstruction", "sequence")


def test_a_bad_site_is_set_aside_and_the_run_goes_on(tmp_path):
    make_cases(tmp_path / "cases")
    for number in range(6):  # an export that lost the rescale intercept of five of six series
        voxels = body(Modality.CT, 50 + number) + (1024 if number else 0)
        make_case(tmp_path / "cases", "delta", number, Modality.CT, voxels=voxels, protocol=Protocol())
    ingest = read_json(tmp_path / "cases" / "ingest.json")
    ingest["sites"]["delta"] = {"role": "train", "minimum_cases": 1, "voxels_in": 5, "voxels_out": 4}
    write_json(tmp_path / "cases" / "ingest.json", ingest)
    summary = validate(tmp_path / "cases", tmp_path / "out", ValidateConfig())
    assert summary.sites_set_aside == ["delta"]
    assert summary.sites_accepted == ["alpha", "beta", "gamma"]
    result = read_json(tmp_path / "out" / "validation.json")
    assert result["sites"]["delta"]["reasons"][0].startswith("some-accepted: 1 of 6 cases accepted")
    warnings = [warning.split(":")[0] for warning in result["sites"]["delta"]["warnings"]]
    assert {"voxels-kept", "kernels-known"} <= set(warnings)
    assert {row["site"] for row in result["mix"]} == {"alpha", "beta", "gamma"}
    whole = next(row for row in result["dataset"] if row["part"] == WHOLE)
    assert (whole["cases"], whole["train_sites"], whole["train_patients"]) == (27, 2, 6)


def test_a_patient_keeps_to_the_side_that_earlier_pairs_had(tmp_path):
    make_cases(tmp_path / "cases")
    index = make_pairs(tmp_path / "pairs")
    moved = [pair.model_copy(update={"patient": "alpha-patient-0", "split": "local"}) for pair in index.pairs[:1]]
    kept = [pair.model_copy(update={"patient": "alpha-patient-1", "split": "test"}) for pair in index.pairs[1:2]]
    write_index(tmp_path / "pairs", PairIndex(pairs=[*moved, *kept], refused={}, data_version="d"))
    assert len(read_index(tmp_path / "pairs").pairs) == 2
    config = ValidateConfig(previous=tmp_path / "pairs", minimum_train_patients=1)
    validate(tmp_path / "cases", tmp_path / "out", config)
    refused = read_json(tmp_path / "out" / "validation.json")["refused"]
    assert sorted(refused) == ["alpha-ct-0", "alpha-mr-0", "alpha-pet-0"]
    assert refused["alpha-ct-0"][0].startswith("split-kept")


def test_the_whole_is_judged_on_what_was_accepted(tmp_path):
    make_case(tmp_path, "alpha", 0, Modality.CT, patient="p")
    make_case(tmp_path, "beta", 1, Modality.CT, patient="p", voxels=body(Modality.CT, 1))
    make_case(tmp_path, "gamma", 2, Modality.CT, "local", patient="p", voxels=body(Modality.CT, 1))
    judged = [(record, case_facts(folder, record)) for folder, record in iterate_cases(tmp_path)]
    splits = {"p": {"train", "test"}}
    relate([row for _, row in judged], [record for record, _ in judged], splits)
    whole, task = dataset_facts(judged, splits)
    assert task["part"] == "ct-denoising"
    assert whole | {"part": ""} == task | {"part": ""}
    found = {key: whole[key] for key in ("copies", *(key for key in whole if key.startswith("patients_in")))}
    assert found == {"copies": 2, "patients_in_two_roles": 1, "patients_in_two_splits": 1}
    assert (whole["patients_at_two_sites"], whole["largest_site_share"], whole["local_scanner_seen_share"]) == (
        1,
        0.5,
        1,
    )
    assert [row["patient_not_local"] for _, row in judged] == [False, False, True]
    assert [row["voxels_new"] for _, row in judged] == [True, False, True]  # the local copy is the one that stays


def test_peaks_of_value_ranges(tmp_path):
    ct = make_case(tmp_path, "alpha", 0, Modality.CT)
    voxels = np.full((4, 40, 40), -3024, np.float32)  # padding counts for nothing
    voxels[:, :, :20] = -1000
    voxels[:, :, 20:30] = 41
    facts = voxel_facts(voxels, ct)
    assert abs(facts["air_peak_hu"] + 1000) <= 5
    assert abs(facts["tissue_peak_hu"] - 41) <= 2.5
    pet = make_case(tmp_path, "alpha", 0, Modality.PET)
    body_suv = body(Modality.PET, 1)
    right, wrong = voxel_facts(body_suv, pet), voxel_facts(1000 * body_suv, pet)
    assert right["suv_body_mean"] == pytest.approx(np.mean(body_suv[body_suv > 0.4]), rel=0.1)
    assert wrong["suv_body_mean"] == pytest.approx(1000 * right["suv_body_mean"], rel=1e-3)


def test_a_constant_that_moves_is_drift_in_either_direction():
    before = np.full(20, 120.0)
    assert psi_of_numbers(before, before) == pytest.approx(0, abs=1e-12)
    down, up = (psi_of_numbers(before, np.full(20, kvp)) for kvp in (80.0, 140.0))
    assert down == pytest.approx(up)
    assert down > 0.25
