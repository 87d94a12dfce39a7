"""The restore step: which series it takes, what it delivers, and what its report may hold."""

import json
from contextlib import ExitStack

import numpy as np
import pytest
from pydicom import dcmread

from components.restore import step
from components.restore.step import RestoreConfig, choose, restore
from mira.client import LocalRestorer
from mira.errors import ConfigurationError, DataRejected, ServerAway
from mira.sites import load_sites
from mira.tasks import Modality
from tests.mira.dicom_synthetic import make_header, write
from tests.triton.tiny_network import describe, tiny_network

SIZE = (48, 48)


def head(number, modality):
    """A disc with structure, in stored values of the modality's usual rescale."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] - 23.5
    disc = np.hypot(rows, columns) < 18
    stored = np.where(disc, 1060.0, 0.0)
    stored[np.hypot(rows - 4, columns) < 5] = 1500 + 10 * number
    return (stored if modality != "PT" else stored * 20).astype(np.int16)


def series(folder, modality, slices=6, **changes):
    changes = {"PixelSpacing": [2.0, 2.0], "PatientName": "Secret^Person", "PatientID": "ID-4711"} | changes
    return write(folder, [make_header(modality, n, head(n, modality), **changes) for n in range(slices)], modality)


@pytest.fixture
def sites(tmp_path):
    series(tmp_path / "a" / "short", "CT", 4, SeriesInstanceUID="1.2.3.1")
    series(tmp_path / "a" / "long", "CT", 6, SeriesInstanceUID="1.2.3.2")
    series(tmp_path / "b", "MR")
    series(tmp_path / "b", "PT", PatientWeight=None)
    series(tmp_path / "t", "PT")
    path = tmp_path / "sites.yaml"
    path.write_text(
        "sites:\n"
        "  - {id: one, role: local, path: a}\n"
        "  - {id: two, role: local, path: b}\n"
        "  - {id: three, role: train, path: t}\n"
    )
    return path


@pytest.fixture
def local(tmp_path, monkeypatch):
    """The step with an ONNX file in this process in Triton's place."""
    network = tiny_network(tmp_path / "net" / "model.onnx", gain=0.0, error_map=True)
    describe(network, version=3)
    monkeypatch.setattr(step, "RestorationClient", lambda url, model, deadline_s: LocalRestorer(network, threads=1))


def test_one_series_per_modality_is_delivered_with_its_figures(tmp_path, sites, local):
    summary = restore(sites, tmp_path / "out", tmp_path / "delivered", RestoreConfig())
    ct, mr = summary.series
    assert (ct.site, ct.modality, ct.slices, ct.simulated) == ("one", Modality.CT, 6, 0.1)
    assert (mr.site, mr.modality, mr.model) == ("two", Modality.MR, "mira_net 3")
    assert ct.input_psnr_db == pytest.approx(ct.restored_psnr_db, abs=0.05)  # the network is the identity
    assert ct.gain_db == pytest.approx(0, abs=0.05)
    assert 0 < ct.input_psnr_db < 60
    assert "SUV" in summary.missing["PET"] or "weight" in summary.missing["PET"]
    files = sorted((tmp_path / "delivered" / "one" / "ct" / "restored").glob("*.dcm"))
    assert len(files) == 6
    assert dcmread(files[0]).PatientID == "ID-4711"
    assert dcmread(files[0]).SeriesDescription.endswith("research use)")


def test_the_expected_error_is_a_second_series_unless_it_is_not_wanted(tmp_path, sites, local):
    summary = restore(sites, tmp_path / "out", tmp_path / "delivered", RestoreConfig())
    ct = tmp_path / "delivered" / "one" / "ct"
    files = sorted((ct / "restored-error").glob("*.dcm"))
    assert len(files) == 6
    assert "expected error (1 SD), HU" in dcmread(files[0]).SeriesDescription
    values = [dcmread(path) for path in files]
    mean = np.mean([d.pixel_array * float(d.RescaleSlope) + float(d.RescaleIntercept) for d in values])
    assert summary.series[0].expected_error == pytest.approx(mean, abs=0.01)
    summary = restore(sites, tmp_path / "out", tmp_path / "delivered", RestoreConfig(confidence=False))
    assert summary.series[0].expected_error is None
    assert not (ct / "restored-error").exists()


def test_what_is_reported_carries_no_patient(tmp_path, sites, local):
    out = tmp_path / "out"
    restore(sites, out, tmp_path / "delivered", RestoreConfig())
    text = (out / "restore.json").read_text()
    assert not any(word in text for word in ("Secret", "4711", str(tmp_path), "1.2.3.2", "20200102"))
    document = json.loads(text)
    pictures = sorted(p.name for p in (out / "pictures").glob("*.png"))
    assert pictures == sorted(p["file"] for p in document["pictures"]) == ["one-ct.png", "two-mr.png"]
    assert not list(out.rglob("*.dcm"))


def test_a_second_run_replaces_the_first(tmp_path, sites, local):
    delivered = tmp_path / "delivered"
    first = restore(sites, tmp_path / "out", delivered, RestoreConfig())
    count = len(list(delivered.rglob("*.dcm")))
    second = restore(sites, tmp_path / "out", delivered, RestoreConfig())
    assert len(list(delivered.rglob("*.dcm"))) == count
    assert [s.input_psnr_db for s in first.series] == [s.input_psnr_db for s in second.series]


def test_what_was_delivered_stays_when_the_network_is_away(tmp_path, sites, local, monkeypatch):
    delivered = tmp_path / "delivered"
    restore(sites, tmp_path / "out", delivered, RestoreConfig())
    before = {path: path.read_bytes() for path in delivered.rglob("*.dcm")}

    def away(*_, **__):
        raise ServerAway("Triton is away.")

    monkeypatch.setattr(LocalRestorer, "restore_slices", away)
    with pytest.raises(ServerAway):
        restore(sites, tmp_path / "out", delivered, RestoreConfig())
    assert before
    assert {path: path.read_bytes() for path in delivered.rglob("*") if path.is_file()} == before


def test_without_simulation_the_scan_itself_is_restored(tmp_path, sites, local):
    delivered = tmp_path / "delivered"
    summary = restore(sites, tmp_path / "out", delivered, RestoreConfig(simulate_low_dose=False))
    assert summary.series[0].simulated is None
    assert summary.series[0].input_psnr_db is None
    assert not list(delivered.rglob("simulated"))
    written = sorted((delivered / "one" / "ct" / "restored").glob("*.dcm"))
    stored = dcmread(written[2])
    values = stored.pixel_array * float(stored.RescaleSlope) + float(stored.RescaleIntercept)
    np.testing.assert_allclose(values, head(2, "CT").astype(float) - 1024, atol=0.07)


def test_the_choice_does_not_depend_on_the_order_of_files(sites, tmp_path):
    chosen, _ = choose([site for site in load_sites(sites).sites if site.role == "local"], Modality.CT, ExitStack())
    assert len(chosen.volume.files) == 6
    missing, why = choose([site for site in load_sites(sites).sites if site.id == "one"], Modality.MR, ExitStack())
    assert missing is None
    assert "no usable MR series" in why


def test_no_local_site_and_nothing_usable_are_errors_that_say_so(tmp_path, local):
    (tmp_path / "empty").mkdir()
    path = tmp_path / "sites.yaml"
    path.write_text("sites:\n  - {id: t, role: train, path: empty}\n")
    with pytest.raises(ConfigurationError, match="local"):
        restore(path, tmp_path / "out", tmp_path / "delivered", RestoreConfig())
    path.write_text("sites:\n  - {id: t, role: local, path: empty}\n")
    with pytest.raises(DataRejected, match="no usable CT"):
        restore(path, tmp_path / "out", tmp_path / "delivered", RestoreConfig())
