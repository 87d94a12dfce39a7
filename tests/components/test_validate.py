import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from components.command import main
from components.validate.phi import looks_like_phi
from components.validate.reference import reference
from components.validate.step import ROOT, ValidateConfig, validate
from components.validate.suites import load_suites
from components.validate.voxels import noise_level
from mira.cases import Protocol, Scanner
from mira.errors import ConfigurationError, DataRejected
from mira.storage import read_json, write_json
from mira.tasks import Modality, Task
from mira.volume import Volume, write_nifti
from tests.components.made_up import body, make_case, make_cases


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """One run over good cases and one bad case of every kind."""
    root = tmp_path_factory.mktemp("cases")
    records = make_cases(root)
    nan = body(Modality.CT, 1)
    nan[0, 0, 0] = np.nan
    make_case(root, "alpha", 10, Modality.CT, voxels=nan)
    make_case(root, "alpha", 11, Modality.PET, voxels=np.zeros((5, 48, 48)))
    make_case(root, "alpha", 12, Modality.CT, voxels=body(Modality.CT, 5) + 1024)  # the rescale intercept was lost
    make_case(root, "beta", 13, Modality.MR, voxels=body(Modality.MR, 7)[:, :20])
    make_case(root, "beta", 14, Modality.MR, mr_scale=None)
    make_case(root, "beta", 15, Modality.CT, scanner=Scanner(manufacturer="Doe^Jane"))
    make_case(root, "beta", 16, Modality.CT, patient="gamma-patient-0")
    make_case(root, "beta", 17, Modality.CT, source_sha256=records[0].source_sha256)
    make_case(root, "beta", 18, Modality.PET, tasks=[], task_refusals={"pet-synthesis": "no injected dose"})
    make_case(root, "beta", 19, Modality.CT, protocol=Protocol())  # only warnings
    make_case(root, "beta", 20, Modality.CT, scanner=Scanner(manufacturer="Made Up", model="Room 12345678"))
    make_case(root, "beta", 21, Modality.CT, protocol=Protocol(kernel="12.03.2019"))
    make_case(
        root,
        "beta",
        22,
        Modality.MR,
        protocol=Protocol(scanning_sequence="as the ward asked after the fall on the stairs"),
    )
    make_case(root, "beta", 23, Modality.CT, study="Trial of Dr Doe")
    forgotten = make_case(root, "beta", 24, Modality.CT)
    (forgotten.folder(root) / "slice.dcm").write_bytes(b"DICM")
    titled = make_case(root, "beta", 25, Modality.CT)
    image = nib.load(titled.folder(root) / "image.nii", mmap=False)
    image.header["descrip"] = b"exported for the tumour board"
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), titled.folder(root) / "image.nii")
    make_case(root, "beta", 26, Modality.CT, voxels=body(Modality.CT, 99))
    make_case(root, "beta", 27, Modality.CT, voxels=body(Modality.CT, 99))  # exported again: other source, same voxels
    dose = make_case(root, "alpha", 28, Modality.PET).pet_dose
    make_case(root, "alpha", 28, Modality.PET, pet_dose=dose.model_copy(update={"factor": dose.factor * 1.01}))
    tilted = make_case(root, "alpha", 29, Modality.CT)
    shear = np.diag([2.0, 2.0, 3.0, 1.0])
    shear[1:3, 2] = 3 * np.sin(0.2), 3 * np.cos(0.2)
    write_nifti(tilted.folder(root) / "image.nii", Volume(body(Modality.CT, 29), shear))
    make_case(root, "delta", 0, Modality.CT)  # one case, two needed
    ingest = read_json(root / "ingest.json")
    ingest["sites"] |= {
        "delta": {"role": "train", "minimum_cases": 2},
        "empty": {"role": "train", "minimum_cases": 1},
    }
    write_json(root / "ingest.json", ingest)
    out = root.parent / "validated"
    summary = validate(root, out, ValidateConfig())
    return summary, read_json(out / "validation.json"), out


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("alpha-ct-10", "voxels-finite"),
        ("alpha-pet-11", "not-blank"),
        ("alpha-ct-12", "ct-hu-plausible"),
        ("beta-mr-13", "large-enough"),
        ("beta-mr-14", "mr-scale"),
        ("beta-ct-15", "no-person-name"),
        ("beta-ct-16", "patient-not-local"),
        ("beta-ct-17", "content-new"),
        ("beta-pet-18", "has-task"),
        ("beta-ct-20", "no-long-number"),
        ("beta-ct-21", "no-date"),
        ("beta-mr-22", "no-free-text"),
        ("beta-ct-23", "names-pseudonymous"),
        ("beta-ct-24", "no-other-file"),
        ("beta-ct-25", "nifti-header-empty"),
        ("beta-ct-27", "voxels-new"),
        ("alpha-pet-28", "pet-suv-follows"),
        ("alpha-ct-29", "rotation-valid"),
    ],
)
def test_a_bad_case_is_refused_for_its_own_reason(result, case, code):
    _, validation, _ = result
    assert code in [reason.split(":")[0] for reason in validation["refused"][case]]
    assert case not in validation["accepted"]


def test_good_cases_are_accepted_and_warnings_do_not_refuse(result):
    summary, validation, _ = result
    assert len([c for c in validation["accepted"] if c.split("-")[0] in ("alpha", "beta", "gamma")]) == 29
    assert "beta-ct-19" in validation["accepted"]
    assert any(w.startswith("ct-kernel-known: 1 of") for w in validation["sites"]["beta"]["warnings"])
    assert summary.accepted == 29
    assert summary.refused == len(validation["refused"]) == 19


def test_the_reason_of_ingest_is_passed_on(result):
    assert "has-task: no injected dose" in result[1]["refused"]["beta-pet-18"]


def test_a_site_under_its_minimum_is_set_aside_and_the_others_go_on(result):
    summary, validation, _ = result
    assert summary.sites_set_aside == ["delta", "empty"]
    assert summary.sites_accepted == ["alpha", "beta", "gamma"]
    assert "1 of 1 cases accepted, 2 needed" in validation["sites"]["delta"]["reasons"][0]
    assert validation["refused"]["delta-ct-0"][0].startswith("site-set-aside")
    assert validation["sites"]["empty"]["cases"] == 0


def test_data_docs_need_no_network_and_carry_no_phi(result):
    _, _, out = result
    page = (out / "docs" / "index.html").read_text()
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|@import|<script|<link""", page)
    assert "ct-kernel-known" not in page or "has_kernel" in page
    assert "has_kernel" in page
    assert "delta" in page
    for file in out.rglob("*"):
        if file.is_file():
            text = file.read_text()
            assert "Doe" not in text
            assert "patient-0" not in text


def test_profile_describes_accepted_cases_only(result):
    document = read_json(result[2] / "profile.json")
    assert document["usable"]
    profile = {(row["site"], row["modality"]): row for row in document["sites"]}
    assert profile["alpha", "CT"]["cases"] == 3
    assert profile["alpha", "CT"]["figures"]["noise"]["median"] == pytest.approx(10, rel=0.35)
    assert ("delta", "CT") not in profile


def test_too_few_sites_is_an_error_that_says_what_to_do_and_leaves_the_results(tmp_path):
    for number in range(3):
        make_case(tmp_path / "cases", "alpha", number, Modality.CT)
    with pytest.raises(DataRejected, match=r"0 sites with role local are usable, but the run needs 1"):
        validate(tmp_path / "cases", tmp_path / "out", ValidateConfig())
    assert read_json(tmp_path / "out" / "validation.json")["shortages"]
    validate(tmp_path / "cases", tmp_path / "out", ValidateConfig(minimum_local_sites=0))


def test_empty_folder_and_command_line_exit_code(tmp_path, capsys):
    assert main("validate", ValidateConfig, ["cases", "out"], validate, "", _arguments(tmp_path)) == 3
    assert "Run the ingest step first" in capsys.readouterr().err


def test_parameters_override_the_minimum(tmp_path):
    make_cases(tmp_path / "cases")
    summary = validate(tmp_path / "cases", tmp_path / "out", ValidateConfig(minimum_cases={"alpha": 100}))
    assert summary.sites_set_aside == ["alpha"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"severity": "maybe"}, r"expectations.0.severity: Input should be 'must' or 'warn'"),
        ({"kwargs": {"column": "has_kernal", "value_set": [True]}}, r"`column: has_kernal` is no fact"),
        ({"type": "expect_magic"}, r"does not accept `expect_magic`"),
    ],
)
def test_a_wrong_suite_is_a_clear_error(tmp_path, edit, message):
    make_case(tmp_path / "cases", "alpha", 0, Modality.CT)
    rule = {"code": "a", "says": "b", "type": "expect_column_values_to_be_in_set", "severity": "must"}
    rule |= {"kwargs": {"column": "has_kernel", "value_set": [True]}} | edit
    write_json(tmp_path / "suites" / "ct.yaml", {"name": "ct", "about": "case", "expectations": [rule]})
    with pytest.raises(ConfigurationError, match=message):
        validate(tmp_path / "cases", tmp_path / "out", ValidateConfig(suites=tmp_path / "suites"))


def test_declared_suites_cover_every_modality_and_task():
    suites = load_suites(ROOT / "data" / "expectations")
    case = [suite for suite in suites if suite.about == "case"]
    assert {suite.modality for suite in case} == {None, *Modality}
    assert {suite.task for suite in case} == {None, *Task}
    assert {suite.about for suite in suites} == {"case", "site", "dataset", "drift"}
    codes = [e.code for s in suites for e in s.expectations]
    assert len(codes) == len(set(codes))


def test_the_reference_page_is_of_these_suites():
    page = (ROOT / "docs" / "reference" / "expectations.md").read_text()
    assert page == reference(load_suites(ROOT / "data" / "expectations"))


@pytest.mark.parametrize(
    "text",
    [
        "seen 2019-03-12",
        "20190312",
        "DOE^JOHN",
        "a@b.org",
        "1.3.6.1.4.1.14519.5.2.1.99.1071",
        "/home/x/scan",
        "https://pacs/x",
        "00431234567",
    ],
)
def test_phi_is_recognised_and_technical_text_is_not(tmp_path, text):
    clean = make_case(tmp_path, "alpha", 0, Modality.MR, protocol=Protocol(kernel="B31f", scanning_sequence="SE\\IR"))
    assert not looks_like_phi(clean, clean.folder(tmp_path))
    spoilt = clean.model_copy(update={"protocol": Protocol(kernel=text)})
    assert looks_like_phi(spoilt, clean.folder(tmp_path))


def test_noise_level_is_the_standard_deviation_of_white_noise():
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(128.0), 3 * np.arange(128.0))
    picture = (ramp + 17 * rng.standard_normal((4, 128, 128))).astype(np.float32)
    assert noise_level(picture) == pytest.approx(17, rel=0.03)


def _arguments(folder: Path) -> list[str]:
    return ["--cases", str(folder), "--out", str(folder / "out")]
