"""What a case's record says of units, frames of reference and multi-frame files."""

import pytest

from components.ingest.step import IngestConfig, ingest
from mira.cases import CaseRecord, iterate_cases
from mira.storage import read_json
from tests.components.test_ingest import sites_file
from tests.mira.dicom_enhanced import enhanced, frame, item
from tests.mira.dicom_synthetic import ROOT, make_series, pixels, write

KINDS = ("CT", "PET", "MR")


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "a key for tests only")


def taken_in(folder) -> dict[str, CaseRecord]:
    ingest(sites_file(folder, alpha={}), folder / "out", IngestConfig(workers=1))
    return {record.modality.value: record for _, record in iterate_cases(folder / "out")}


def test_series_of_one_frame_of_reference_find_each_other_by_a_pseudonym(tmp_path):
    make_series(tmp_path / "alpha" / "ct", "CT")
    make_series(tmp_path / "alpha" / "pet", "PT")
    make_series(tmp_path / "alpha" / "mr", "MR", FrameOfReferenceUID=None)
    records = taken_in(tmp_path)
    assert records["CT"].frame_of_reference == records["PET"].frame_of_reference != ""
    assert records["MR"].frame_of_reference == ""
    assert ROOT not in "".join(record.model_dump_json() for record in records.values())


def test_records_of_every_modality_hold_their_conversion_and_no_moment(tmp_path):
    for kind in ("CT", "PT", "MR"):
        make_series(tmp_path / "alpha" / kind, kind)
    records = taken_in(tmp_path)
    found = {kind: records[kind].conversion for kind in KINDS}
    assert [found[kind].source_unit for kind in KINDS] == ["HU", "BQML", "a.u."]
    assert found["CT"].formula == "HU = stored * slope + intercept"
    assert (found["CT"].inputs["slope_lowest"], found["CT"].inputs["intercept_highest"]) == (1, -1024)
    assert found["PET"].inputs["seconds_injection_to_reference"] == 3600
    for record in records.values():
        text = record.model_dump_json()
        assert not any(moment in text for moment in ("20200102", "100000.", "090000"))


def test_frames_that_are_left_out_are_not_counted_as_taken(tmp_path):
    groups = [frame(n // 2) for n in range(8)]
    for number, group in enumerate(groups):
        kind = "PHASE" if number % 2 else "MAGNITUDE"
        group.MRImageFrameTypeSequence = [item(ComplexImageComponent=kind)]
    write(tmp_path / "alpha", [enhanced("MR", groups)])
    assert taken_in(tmp_path)["MR"].shape == (4, *pixels(0).shape)
    site = read_json(tmp_path / "out" / "ingest.json")["sites"]["alpha"]
    assert site["voxels_in"] == site["voxels_out"] == 4 * pixels(0).size
    reasons = [entry["reason"] for entry in read_json(tmp_path / "out" / "quarantine.json")["rejected"]]
    assert reasons == ["not-magnitude"]
