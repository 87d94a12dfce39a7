"""Ingest end to end: cases, quarantine, repeated and cut-off runs, bad sites, and no trace of a patient."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from pydicom.dataset import Dataset

from components.ingest.__main__ import run as step
from components.ingest.series import ingest_series
from components.ingest.step import IngestConfig, ingest
from mira.cases import iterate_cases, read_volume
from mira.cli import main as mira
from mira.dicom.fitness import check_rules
from mira.errors import ConfigurationError, DataRejected
from mira.sites import Sites
from mira.storage import hash_tree
from mira.tasks import Task
from mira.volume import read_nifti
from tests.bench_sites import BENCH, write_bench_sites
from tests.mira.dicom_synthetic import ROOT, make_header, make_series, pet_drug, pixels, structure_set, write

ONE = IngestConfig(workers=1)


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "a key for tests only")


def sites_file(folder: Path, **sites: dict) -> Path:
    listed = []
    for name, more in sites.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        listed.append({"id": name, "role": "train", "path": name} | more)
    path = folder / "sites.yaml"
    path.write_text(yaml.safe_dump({"sites": listed}))
    return path


def hospital(folder: Path) -> None:
    """CT with contours, PET and MR of one patient, and things that are no volume."""
    make_series(folder / "ct", "CT", stored=None)
    write(folder / "rt", [structure_set({1: [[(-5, -10, 4), (-1, -10, 4), (-1, 0, 4), (-5, 0, 4)]]})])
    make_series(folder / "pet", "PT")
    make_series(folder / "mr", "MR", slices=5)
    write(folder / "scout", [make_header("CT", 0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])])
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff")


def test_cases_with_records_and_tables(tmp_path):
    path = sites_file(tmp_path, alpha={}, beta={"role": "local"})
    hospital(tmp_path / "alpha")
    make_series(tmp_path / "beta", "CT", PatientID="P-2", StudyInstanceUID="1.2.9", SeriesInstanceUID="1.2.9.1")
    summary = ingest(path, tmp_path / "out", ONE)
    records = {record.modality.value: record for _, record in iterate_cases(tmp_path / "out") if record.site == "alpha"}
    assert set(records) == {"CT", "PET", "MR"}
    assert len({record.patient for record in records.values()}) == 1
    assert records["CT"].tasks == [Task.CT_DENOISING]
    assert records["CT"].structures == 1
    assert records["CT"].spacing_mm == (2.0, 1.5, 0.5)
    assert records["PET"].pet_dose is not None
    assert records["MR"].shape == (5, 20, 24)
    ct = records["CT"].folder(tmp_path / "out")
    np.testing.assert_array_equal(read_volume(ct).voxels[1], np.maximum(pixels(1).astype(np.float32) - 1024, -1024))
    structures = read_nifti(ct / "structures.nii").voxels
    assert set(np.unique(structures)) == {0, 1}
    assert structures[2].any()
    table = pd.read_parquet(tmp_path / "out" / "cases.parquet")
    assert sorted(table["case_id"]) == sorted(record.case_id for _, record in iterate_cases(tmp_path / "out"))
    assert set(table["role"]) == {"train", "local"}
    site = summary.sites["alpha"]
    assert (site.files, site.series, site.cases, site.structure_sets) == (16, 3, 3, 1)
    assert site.refused == {"localiser": 1, "not-dicom": 1}
    assert site.voxels_in == site.voxels_out == 13 * 20 * 24
    assert json.loads((tmp_path / "out" / "ingest.json").read_text())["cases"] == 4


def test_every_file_is_accounted_for(tmp_path):
    path = sites_file(tmp_path, alpha={})
    hospital(tmp_path / "alpha")
    make_series(tmp_path / "alpha" / "short", "CT", slices=2, SeriesInstanceUID="1.2.7")
    make_series(tmp_path / "alpha" / "tiny", "CT", stored=pixels(0, (8, 8)), SeriesInstanceUID="1.2.8")
    summary = ingest(path, tmp_path / "out", ONE)
    quarantine = json.loads((tmp_path / "out" / "quarantine.json").read_text())
    taken = sum(record.source_files for _, record in iterate_cases(tmp_path / "out"))
    site = summary.sites["alpha"]
    assert site.files == taken + site.structure_sets + sum(site.refused.values()) + site.duplicates
    assert site.refused == {"localiser": 1, "not-dicom": 1, "too-few-slices": 2, "too-small": 4}
    assert quarantine["counts"]["alpha"] == site.refused
    listed = sorted(path for path in (tmp_path / "alpha").rglob("*") if path.is_file())
    photo = next(item for item in quarantine["rejected"] if item["reason"] == "not-dicom")
    assert listed[photo["index"]].name == "photo.jpg"
    assert photo["text"] == "not a DICOM file"
    assert len(photo["content"]) == 12


def test_nothing_changed_nothing_done(tmp_path):
    path = sites_file(tmp_path, alpha={})
    hospital(tmp_path / "alpha")
    first = ingest(path, tmp_path / "out", ONE)
    images = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.nii")}
    table = (tmp_path / "out" / "cases.parquet").read_bytes()
    renamed = tmp_path / "alpha" / "ct" / "ct000.dcm"
    renamed.rename(renamed.with_name("other name.dcm"))
    second = ingest(path, tmp_path / "out", ONE)
    assert second.sites["alpha"].unchanged == 3
    assert first.sites["alpha"].unchanged == 0
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.nii")} == images
    assert (tmp_path / "out" / "cases.parquet").read_bytes() == table


def test_a_late_slice_opens_its_series_again_and_a_deleted_one_is_removed(tmp_path):
    path = sites_file(tmp_path, alpha={})
    hospital(tmp_path / "alpha")
    ingest(path, tmp_path / "out", ONE)
    before = {record.modality: record.case_id for _, record in iterate_cases(tmp_path / "out")}
    write(tmp_path / "alpha" / "late", [make_header("CT", 4)])
    shutil.rmtree(tmp_path / "alpha" / "mr")
    summary = ingest(path, tmp_path / "out", ONE)
    after = {record.modality: record for _, record in iterate_cases(tmp_path / "out")}
    assert after["CT"].case_id == before["CT"]
    assert after["CT"].shape[0] == 5
    assert "MR" not in after
    assert summary.removed_cases == 1
    assert summary.sites["alpha"].unchanged == 1


def test_a_killed_run_carries_on(tmp_path, monkeypatch):
    path = sites_file(tmp_path, alpha={})
    hospital(tmp_path / "alpha")
    done = []

    def killed_after_one(job):
        if done:
            raise KeyboardInterrupt
        done.append(job)
        return ingest_series(job)

    with monkeypatch.context() as patch:
        patch.setattr("components.ingest.step.ingest_series", killed_after_one)
        with pytest.raises(KeyboardInterrupt):
            ingest(path, tmp_path / "out", ONE)
    torn = next((tmp_path / "out").glob("alpha/*/case.json"))
    ingest(path, tmp_path / "whole", ONE)
    summary = ingest(path, tmp_path / "out", ONE)
    assert summary.sites["alpha"].unchanged == 1
    assert hash_tree(tmp_path / "out" / "alpha") == hash_tree(tmp_path / "whole" / "alpha")
    torn.unlink()  # as if cut off within a case
    assert ingest(path, tmp_path / "out", ONE).sites["alpha"].unchanged == 2
    assert hash_tree(tmp_path / "out" / "alpha") == hash_tree(tmp_path / "whole" / "alpha")


def test_processes_give_the_same_as_one(tmp_path):
    path = sites_file(tmp_path, alpha={})
    for number in range(6):
        make_series(tmp_path / "alpha" / str(number), "MR", SeriesInstanceUID=f"1.2.{number}")
    ingest(path, tmp_path / "one", ONE)
    ingest(path, tmp_path / "two", IngestConfig(workers=2))
    for out in ("one", "two"):
        shutil.rmtree(tmp_path / out / ".ingest" / ".seen")  # depends on how old the files are
    assert hash_tree(tmp_path / "one") == hash_tree(tmp_path / "two")
    assert len(list(iterate_cases(tmp_path / "two"))) == 6


def test_one_bad_site_does_not_stop_the_others(tmp_path):
    path = sites_file(tmp_path, alpha={}, empty={}, pictures={}, broken={})
    make_series(tmp_path / "alpha")
    for number in range(3):
        (tmp_path / "pictures" / f"{number}.JPG").write_bytes(b"\xff\xd8\xff")
    make_series(tmp_path / "broken", slices=2)
    sites = ingest(path, tmp_path / "out", ONE).sites
    assert sites["alpha"].error == ""
    assert "the folder is empty" in sites["empty"].error
    assert "no DICOM was found among 3 files, 3 of them pictures" in sites["pictures"].error
    assert "fewer than 3 slices" in sites["broken"].error


@pytest.mark.parametrize(("pictures", "words"), [(0, "the folder is empty"), (2, "no DICOM was found among 2 files")])
def test_no_case_at_all_is_an_error_that_says_what_to_do(tmp_path, pictures, words):
    path = sites_file(tmp_path, alpha={})
    for number in range(pictures):
        (tmp_path / "alpha" / f"{number}.jpeg").write_bytes(b"\xff\xd8\xff")
    with pytest.raises(DataRejected, match=words):
        ingest(path, tmp_path / "out", ONE)
    assert json.loads((tmp_path / "out" / "quarantine.json").read_text())["counts"]["alpha"] == (
        {"not-dicom": 2} if pictures else {}
    )


def test_rules_decide_what_a_site_offers(tmp_path):
    rules = [{"task": "ct-denoising", "match": {"ConvolutionKernel": "Br3.*", "SliceThickness": "2.0"}}]
    path = sites_file(tmp_path, alpha={"series": rules})
    hospital(tmp_path / "alpha")
    make_series(tmp_path / "alpha" / "sharp", "CT", ConvolutionKernel="Hr60", SeriesInstanceUID="1.2.7")
    summary = ingest(path, tmp_path / "out", ONE)
    assert summary.sites["alpha"].tasks == {"ct-denoising": 1}
    assert summary.sites["alpha"].refused["not-offered"] == 4 + 4 + 5
    for match in ({"ConvolutionKernle": "B"}, {"ConvolutionKernel": "B("}):
        bad = sites_file(tmp_path, alpha={"series": [{"task": "ct-denoising", "match": match}]})
        with pytest.raises(ConfigurationError, match="alpha"):
            ingest(bad, tmp_path / "out", ONE)


def test_rules_may_name_attributes_behind_the_pixels_description(tmp_path):
    path = sites_file(tmp_path, alpha={"series": [{"task": "pet-synthesis", "match": {"Units": "BQML"}}]})
    make_series(tmp_path / "alpha", "PT")
    assert ingest(path, tmp_path / "out", ONE).cases == 1


def test_pet_without_weight_is_a_case_without_a_task(tmp_path):
    path = sites_file(tmp_path, alpha={})
    make_series(tmp_path / "alpha", "PT", PatientWeight=None)
    ingest(path, tmp_path / "out", ONE)
    record = next(record for _, record in iterate_cases(tmp_path / "out"))
    assert record.unit == "BQML"
    assert record.tasks == []
    assert "weight" in record.task_refusals["pet-synthesis"]


def test_sites_that_are_gone_leave_no_cases(tmp_path):
    both = sites_file(tmp_path, alpha={}, beta={})
    make_series(tmp_path / "alpha")
    make_series(tmp_path / "beta", SeriesInstanceUID="1.2.7")
    ingest(both, tmp_path / "out", ONE)
    only = sites_file(tmp_path, alpha={})
    assert ingest(only, tmp_path / "out", ONE).removed_cases == 1
    assert {record.site for _, record in iterate_cases(tmp_path / "out")} == {"alpha"}


def test_verb_takes_in_one_site_and_keeps_the_others(tmp_path, capsys):
    make_series(tmp_path / "a")
    make_series(tmp_path / "b", SeriesInstanceUID="1.2.7")
    out = str(tmp_path / "out")
    assert mira(["ingest", str(tmp_path / "a"), "--site", "alpha", "--out", out]) == 0
    assert mira(["ingest", str(tmp_path / "b"), "--site", "beta", "--role", "local", "--out", out, "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out.splitlines()[-1])["sites"]) == {"alpha", "beta"}
    assert {record.role for _, record in iterate_cases(tmp_path / "out")} == {"train", "local"}
    (tmp_path / "none").mkdir()
    assert mira(["ingest", str(tmp_path / "none"), "--site", "gamma", "--out", out]) == 3
    assert "the folder is empty" in capsys.readouterr().err
    assert mira(["ingest", str(tmp_path / "a"), "--out", out]) == 2
    assert mira(["ingest", str(tmp_path / "gone"), "--site", "alpha", "--out", out]) == 2
    assert mira(["ingest", str(tmp_path / "a"), "--site", "Bad Name", "--out", out]) == 2
    assert step(sites_file(tmp_path, alpha={"path": "a"}), tmp_path / "other", ONE).cases == 1


def test_same_patient_at_two_sites_is_one_patient_unless_told_otherwise(tmp_path):
    path = sites_file(tmp_path, alpha={}, beta={"role": "local"})
    make_series(tmp_path / "alpha")
    make_series(tmp_path / "beta", "MR")
    for scope, patients in (("project", 1), ("site", 2)):
        out = tmp_path / scope
        ingest(path, out, IngestConfig(workers=1, patient_scope=scope))
        assert len({record.patient for _, record in iterate_cases(out)}) == patients


SECRETS = {
    "PatientName": "Zyxwvut^Quirina",
    "PatientID": "PID7391846",
    "OtherPatientIDs": "OPI5550123",
    "PatientBirthDate": "19370317",
    "PatientAddress": "Hollerweg 17",
    "AccessionNumber": "ACC8812764",
    "StudyID": "STU664421",
    "StudyDate": "20110923",
    "SeriesDate": "20110923",
    "AcquisitionDate": "20110923",
    "ContentDate": "20110924",
    "StudyDescription": "Kontrolle Zyxwvut",
    "SeriesDescription": "Thorax Quirina",
    "ImageComments": "Fr. Zyxwvut, Bett 12, Haltermann",
    "ReferringPhysicianName": "Haltermann^Ottokar",
    "OperatorsName": "Brockdorff^Isa",
    "InstitutionName": "Klinikum Hintertupfing",
    "StationName": "HINTERCT1",
    "DeviceSerialNumber": "SN4470921",
    "StudyInstanceUID": f"{ROOT}.77001.1",
    "SeriesInstanceUID": f"{ROOT}.77001.2",
    "FrameOfReferenceUID": f"{ROOT}.77001.3",
    "ProtocolName": "Zyxwvut special",
    "ManufacturerModelName": "Scanner for Quirina",
    "SoftwareVersions": "20110923 PID7391846",
    "ScanningSequence": "QUIRINA",
    "ConvolutionKernel": "ZYXWVUT",
}
WORDS = ["Zyxwvut", "Quirina", "PID7391846", "OPI5550123", "19370317", "Hollerweg", "ACC8812764", "STU664421",
         "2011092", "2011-09-2", "Haltermann", "Ottokar", "Brockdorff", "Hintertupfing", "HINTERCT1", "SN4470921",
         "77001", ROOT, "Kontrolle", "Geheimnis", "Lungenkrebs"]  # fmt: skip


def stuffed(modality: str, number: int):
    """A slice with identifying values in every odd place."""
    ds = make_header(modality, number, SOPInstanceUID=f"{ROOT}.77001.4.{number}", **SECRETS)
    block = ds.private_block(0x0029, "GEHEIM", create=True)
    block.add_new(0x01, "LO", "Geheimnis Zyxwvut")
    nested, inner = Dataset(), Dataset()
    inner.CodeValue, inner.CodeMeaning = "X", "Lungenkrebs Quirina"
    nested.PatientID, nested.PurposeOfReferenceCodeSequence = "PID7391846", [inner]
    ds.ReferencedStudySequence = [nested]
    if modality == "PT":
        ds.RadiopharmaceuticalInformationSequence = [pet_drug(Radiopharmaceutical="FDG Zyxwvut")]
    ds.file_meta.SourceApplicationEntityTitle = "HINTERCT1"
    return ds


def test_no_identifying_value_is_left_in_any_output(tmp_path, capfd):
    path = sites_file(tmp_path, alpha={})
    inbox = tmp_path / "alpha" / "Zyxwvut_Quirina" / "PID7391846"
    for modality in ("CT", "PT", "MR"):
        ds = [stuffed(modality, number) for number in range(4)]
        for one in ds:
            one.SeriesInstanceUID = f"{ROOT}.77001.2.{ord(modality[0])}"
        write(inbox / modality, ds, "Zyxwvut")
    write(inbox / "few", [stuffed("CT", 0)], "Zyxwvut")
    write(inbox / "scout", [make_header("CT", 0, **{**SECRETS, "ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]})])
    roi = structure_set({1: []}, **{k: SECRETS[k] for k in ("PatientName", "PatientID", "StudyDate")})
    write(inbox / "rt", [roi])
    (inbox / "Zyxwvut report.pdf").write_bytes(b"%PDF Zyxwvut")
    broken = write(inbox / "broken", [stuffed("CT", 9)])[0]
    broken.write_bytes(broken.read_bytes()[:-300])
    damaged = write(inbox / "damaged", [stuffed("MR", 9)])[0]
    damaged.write_bytes(damaged.read_bytes()[:420])
    summary = ingest(path, tmp_path / "out", ONE)
    assert summary.cases >= 2
    assert mira(["inspect", str(tmp_path / "alpha")]) == 0
    printed = capfd.readouterr()
    outputs = {str(p): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    outputs |= {"standard output": printed.out.encode(), "standard error": printed.err.encode()}
    outputs["names"] = "\n".join(str(p.relative_to(tmp_path)) for p in (tmp_path / "out").rglob("*")).encode()
    outputs["summary"] = summary.model_dump_json().encode()
    assert len(outputs) > 12
    received = b"".join(str(p).encode() + p.read_bytes() for p in inbox.rglob("*") if p.is_file())
    assert [word for word in WORDS if word.encode() not in received] == ["2011-09-2"]  # the scan can find what is there
    found = [
        (name, word)
        for name, content in outputs.items()
        for word in WORDS
        for form in (word.encode(), word.encode("utf-16-le"))
        if form.lower() in content.lower()
    ]
    assert found == []


def test_the_example_of_a_sites_file_is_valid():
    text = (Path(__file__).parents[2] / "data" / "sites.example.yaml").read_text()
    for site in Sites.model_validate(yaml.safe_load(text)).sites:
        check_rules(site)


@pytest.mark.bench
@pytest.mark.slow
@pytest.mark.skipif(not BENCH.is_dir(), reason="the real scans (MIRA_BENCH) are not here")
def test_real_sites_come_in_without_loss(tmp_path):
    summary = ingest(write_bench_sites(tmp_path), tmp_path / "out", IngestConfig())
    assert {name: site.cases for name, site in summary.sites.items()} == {
        "site-basel-siemens": 1,
        "site-cmb-toshiba": 1,
        "site-lidc-philips": 1,
        "site-mcgill": 35,
        "site-vsseg-siemens": 1,
        "site-mcgill-heldout": 6,
        "site-mskcc": 1,
        "site-uih": 1,
    }
    for site in summary.sites.values():
        assert site.voxels_in == site.voxels_out > 0
        assert not site.refused
    assert summary.sites["site-mcgill"].structure_sets == 11
    patients = {
        role: {r.patient for _, r in iterate_cases(tmp_path / "out") if r.role == role} for role in ("train", "local")
    }
    assert not patients["train"] & patients["local"]
