"""Pseudonyms: stable, keyed, never merging people; coded facts without identifying words."""

import pytest

from mira.dicom.deidentify import Pseudonyms, load_pseudonyms
from mira.dicom.facts import protocol_facts, scanner_facts, standard_uid
from mira.errors import ConfigurationError
from tests.mira.dicom_synthetic import make_header

NAMES = Pseudonyms(b"a key that is long enough")


def patient(scope: str = "", content: str = "c", **changes) -> str:
    return NAMES.patient(make_header(**changes), scope, content)


def test_same_patient_same_pseudonym_whatever_the_series():
    assert patient() == patient(number=7, StudyInstanceUID="1.2.3", PatientName="Doe^J")
    assert patient(PatientID="p-1") == patient(PatientID=" P-1 ")
    assert patient() != patient(PatientID="P-2")
    assert "P-1" not in patient()


def test_issuer_and_scope_tell_equal_ids_apart():
    # one series names the issuer, another does not: still one patient of the project
    assert patient(IssuerOfPatientID="A") == patient()
    assert patient(scope="site-a", IssuerOfPatientID="A") != patient(scope="site-a", IssuerOfPatientID="B")
    assert patient(scope="site-a") != patient(scope="site-b")
    assert patient(scope="site-a", IssuerOfPatientID="A") == patient(scope="site-b", IssuerOfPatientID="A")


@pytest.mark.parametrize("empty", ["", "***", "ANONYMIZED", "0000", "Unknown", "N/A"])
def test_an_id_that_says_nothing_never_merges_patients(empty):
    one, other = (patient(PatientID=empty, StudyInstanceUID=f"1.2.{n}") for n in (1, 2))
    assert one != other
    assert one == patient(PatientID=empty, StudyInstanceUID="1.2.1", number=3)
    frames = {patient(PatientID=empty, StudyInstanceUID="", FrameOfReferenceUID=f"1.2.{n}") for n in (1, 2)}
    contents = {patient(PatientID=empty, StudyInstanceUID="", FrameOfReferenceUID="", content=c) for c in "ab"}
    assert len(frames | contents) == 4


def test_numbered_anonymous_ids_are_ids():
    assert patient(PatientID="ANON-1") != patient(PatientID="ANON-2")


def test_pseudonyms_depend_on_the_key_and_on_borders():
    assert NAMES.code("patient", "a", "b") != Pseudonyms(b"another key, long enough").code("patient", "a", "b")
    assert NAMES.code("patient", "ab", "c") != NAMES.code("patient", "a", "bc")
    assert "long enough" not in repr(NAMES)


def test_key_is_made_on_first_use_for_its_owner_only(tmp_path, monkeypatch):
    monkeypatch.delenv("MIRA_PSEUDONYM_KEY", raising=False)
    monkeypatch.delenv("MIRA_KEY_FILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    first = load_pseudonyms()
    path = tmp_path / ".config" / "mira" / "pseudonym.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_pseudonyms() == first
    assert [p.name for p in path.parent.iterdir()] == ["pseudonym.key"]
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        load_pseudonyms()


def test_key_from_the_environment_or_a_named_file(tmp_path, monkeypatch):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "0123456789abcdef")
    assert load_pseudonyms() == Pseudonyms(b"0123456789abcdef")
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "short")
    with pytest.raises(ConfigurationError, match="shorter"):
        load_pseudonyms()
    monkeypatch.delenv("MIRA_PSEUDONYM_KEY")
    named = tmp_path / "key"
    named.write_text("fedcba9876543210\n")
    named.chmod(0o600)
    monkeypatch.setenv("MIRA_KEY_FILE", str(named))
    assert load_pseudonyms() == Pseudonyms(b"fedcba9876543210")
    named.write_bytes(b"\xff\xff")
    with pytest.raises(ConfigurationError, match="MIRA_KEY_FILE"):
        load_pseudonyms()


def test_facts_take_coded_words_and_numbers_only():
    header = make_header(
        ConvolutionKernel="Br38f\\3",
        KVP="120",
        ManufacturerModelName="Scanner of Jane",
        SoftwareVersions="build 20200102",
        ScanningSequence="A;B",
        SliceThickness="-3",
    )
    protocol, scanner = protocol_facts(header), scanner_facts(header)
    assert protocol.kernel == "Br38f/3"
    assert protocol.kvp == 120
    assert protocol.scanning_sequence == ""
    assert protocol.slice_thickness_mm is None
    assert scanner.manufacturer == "SIEMENS"
    assert scanner.model == ""  # repeats the patient's name
    assert scanner.software == ""  # repeats the date of the study
    assert standard_uid("1.2.840.10008.1.2") != ""
    assert standard_uid("1.2.826.0.20200102.1") == ""
