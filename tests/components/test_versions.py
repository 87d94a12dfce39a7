"""Versions of the data: few objects, yesterday's data back by the name that a training shows, nothing half done."""

import json
import os
import shutil
import stat
from multiprocessing import get_context

import pytest
import yaml

from components.ingest.step import IngestConfig, ingest
from components.pair.step import PairConfig, pair
from components.versions import actions
from components.versions.shards import pack, unpack
from components.versions.store import Store
from components.versions.verb import add_data
from mira.cases import iterate_cases
from mira.errors import ConfigurationError, DataRejected, RetryableError
from mira.pairs import PairIndex, write_index
from mira.storage import hash_tree, write_json
from mira.tasks import Task
from tests.mira.dicom_synthetic import ROOT, make_series


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("MIRA_PSEUDONYM_KEY", "a key for tests only")


def send(data, patient: int) -> None:
    """A hospital sends a patient's series, in a folder that is named as hospitals name them."""
    uids = {"StudyInstanceUID": f"{ROOT}.{patient}", "SeriesInstanceUID": f"{ROOT}.{patient}.1"}
    make_series(data / "inbox" / f"DOE^JANE_{patient}", PixelSpacing=[1, 1], PatientID=f"P-{patient}", **uids)


def step_through(data) -> str:
    """Ingest and pair what is in the inbox; returns what trainings on it show as data_version."""
    sites = data / "inbox" / "sites.yaml"
    sites.write_text(yaml.safe_dump({"sites": [{"id": "alpha", "role": "train", "path": "."}]}))
    ingest(sites, data / "cases", IngestConfig(workers=1))
    accepted = [record.case_id for _, record in iterate_cases(data / "cases")]
    write_json(data / "stages" / "validation" / "validation.json", {"accepted": accepted})
    write_json(data / "stages" / "validation" / "profile.json", {"usable": True})
    config = PairConfig(workers=1, tasks=[Task.CT_DENOISING], max_slices_per_case=1)
    return pair(data / "cases", data / "stages" / "validation", data / "pairs", config).data_version


def content(data) -> dict[str, str]:
    return {part: hash_tree(data / place) for part, place in actions.LAYOUT.items()}


def command(arguments: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    add_data(parser.add_subparsers())
    parsed = parser.parse_args(["data", *arguments])
    return parsed.run(parsed)


def test_yesterdays_data_comes_back_by_the_name_that_a_training_shows(tmp_path, prepared, capsys):
    data = tmp_path / "data"
    store = copied(prepared, data)
    send(data, 1)
    send(data, 2)
    monday = step_through(data)
    before = content(data)
    assert command(["save", "--data", str(data), "--raw", "--note", "monday"]) == 0
    send(data, 3)
    tuesday = step_through(data)
    assert tuesday != monday
    with pytest.raises(DataRejected, match="cases and pairs and validation were never saved"):
        actions.restore(store, monday, data)
    assert len(content(data)) == 4
    objects = {remote: _objects(store, remote) for remote in ("deidentified", "raw")}
    assert command(["save", "--data", str(data), "--raw"]) == 0
    after = content(data)
    # new are the case, pair and series, the folders of tables and of ingest's notes, and a list of shards per part
    assert len(_objects(store, "raw") - objects["raw"]) == 1 + 1  # sites.yaml did not change
    assert len(_objects(store, "deidentified") - objects["deidentified"]) <= (1 + 1 + 2) + (1 + 1) + 1 + 3

    assert command(["restore", monday, "--data", str(data), "--raw"]) == 0
    assert content(data) == before
    assert json.loads((data / "pairs" / "pairs.json").read_text())["data_version"] == monday
    assert step_through(data) == monday  # and every step finds its work done
    assert not actions.save(store, actions.data_folders(data)).new  # a second ingest of the same files is no new data
    assert command(["restore", tuesday[:8], "--data", str(data), "--raw"]) == 0
    assert content(data) == after

    capsys.readouterr()
    assert command(["diff", monday, tuesday, "--data", str(data), "--json"]) == 0
    difference = json.loads(capsys.readouterr().out)
    assert (len(difference["added"]), difference["removed"], difference["sites"]) == (1, [], {"alpha": [2, 3]})
    assert command(["list", "--data", str(data)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [monday, tuesday]
    assert lines[0].endswith("monday")
    assert json.loads((data / "versions" / "profiles" / f"{monday}.json").read_text()) == {"usable": True}

    # raw DICOM and its names are in the raw remote and nowhere else, and for its owner alone
    assert stat.S_IMODE((data / "inbox").stat().st_mode) == 0o700
    for path in (store.root / "remote" / "raw", store.root / ".dvc"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in store.root.rglob("*"):
        assert "DOE" not in path.name
        if path.is_file() and path.relative_to(store.root).parts[:2] != ("remote", "raw"):
            assert b"DOE" not in path.read_bytes(), path
            assert b"P-1" not in path.read_bytes(), path
    assert any(b"DOE^JANE_1" in path.read_bytes() for path in _objects(store, "raw"))


def _objects(store: Store, remote: str) -> set:
    return {path for path in (store.root / "remote" / remote).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A store as its first use leaves it; `dvc init` is run once for all tests."""
    store = Store(tmp_path_factory.mktemp("store") / "versions")
    store.prepare()
    return store.root


def copied(prepared, data) -> Store:
    shutil.copytree(prepared, data / "versions")
    return Store(data / "versions")


def fill(data, text: str) -> None:
    (data / "cases").mkdir(parents=True, exist_ok=True)
    (data / "cases" / "table.txt").write_text(text)
    write_index(data / "pairs", PairIndex(pairs=[], refused={}, data_version=f"version-{text}"))


def _killed(store: Store, data, what: str) -> None:
    """Body of a process that is killed in the middle of a save, or of the move of a restore."""
    if what == "save":
        store.push = lambda _: os._exit(9)  # type: ignore[method-assign]
        actions.save(store, actions.data_folders(data))
    real = type(data).replace

    def replace(path, target):
        real(path, target)
        os._exit(9)  # after the first of several moves

    type(data).replace = replace  # type: ignore[method-assign]
    actions.restore(store, "version-one", data)


def _kill(store: Store, data, what: str) -> None:
    process = get_context("fork").Process(target=_killed, args=(store, data, what))
    process.start()
    process.join()
    assert process.exitcode == 9


def test_killed_in_the_middle_leaves_the_old_or_the_new(tmp_path, prepared):
    data = tmp_path / "data"
    store = copied(prepared, data)
    fill(data, "one")
    actions.save(store, actions.data_folders(data))
    old = hash_tree(data / "cases")
    fill(data, "two")
    _kill(store, data, "save")
    assert [version.name for version in store.versions()] == ["version-one"]
    assert actions.save(store, actions.data_folders(data)).new
    assert not (store.root / "cases").exists()
    assert not (store.root / ".dvc" / "cache").exists()

    _kill(store, data, "restore")
    assert not (data / "cases").exists()  # killed between taking the old one away and moving the new one in
    actions.restore(store, "version-one", data)
    assert hash_tree(data / "cases") == old
    assert json.loads((data / "pairs" / "pairs.json").read_text())["data_version"] == "version-one"
    assert not (data / actions.STAGING).exists()

    # a remote that lost its files: told, and nothing is changed
    for path in _objects(store, "deidentified"):
        path.unlink()
    with pytest.raises(DataRejected, match="remote lacks files of the version"):
        actions.restore(store, "version-two", data)
    assert hash_tree(data / "cases") == old


def test_one_name_for_other_cases_is_told_apart_and_the_newest_is_meant(tmp_path, prepared, monkeypatch):
    data = tmp_path / "data"
    store = copied(prepared, data)
    monkeypatch.setattr(store, "push", lambda parts: {part: {} for part in parts})  # naming alone is tested here
    fill(data, "one")
    first = actions.save(store, actions.data_folders(data)).version
    (data / "cases" / "table.txt").write_text("a case more that pairs do not use")
    second = actions.save(store, actions.data_folders(data)).version
    assert (first.name, second.name) == ("version-one", "version-one.2")
    assert store.find("version-one").name == "version-one.2"
    for name, message in (("version", "2 versions begin with version"), ("nonesuch", "No version nonesuch")):
        with pytest.raises(ConfigurationError, match=message):
            store.find(name)


def test_what_cannot_be_saved_or_restored_is_told(tmp_path):
    store = Store(tmp_path / "versions")
    with pytest.raises(DataRejected, match="neither cases nor pairs"):
        actions.save(store, actions.data_folders(tmp_path))
    fill(tmp_path, "one")
    with pytest.raises(DataRejected, match="no raw inbox"):
        actions.save(store, actions.data_folders(tmp_path), raw=True)
    with pytest.raises(DataRejected, match="no run has finished"):
        actions.workspace_folders(tmp_path)
    with pytest.raises(ConfigurationError, match="belong to an s3:// URL"):
        command(["remote", "raw", "/somewhere", "--region", "x", "--store", str(store.root)])


def test_the_remotes_are_named_apart(tmp_path, prepared):
    store = copied(prepared, tmp_path)
    store.set_remote("deidentified", "s3://bucket/mira", {"endpointurl": "https://s3.example"})
    store.set_remote("raw", str(tmp_path / "vault"), {})
    config = (store.root / ".dvc" / "config").read_text()
    assert "url = s3://bucket/mira" in config
    assert "endpointurl = https://s3.example" in config
    assert stat.S_IMODE((tmp_path / "vault").stat().st_mode) == 0o700
    fill(tmp_path / "data", "one")
    with pytest.raises((ConfigurationError, RetryableError), match=r"mira-net\[s3\]|`dvc push` failed"):
        actions.save(store, actions.data_folders(tmp_path / "data"))
    assert store.versions() == []


def test_shards_are_the_same_bytes_and_a_new_file_changes_one(tmp_path):
    source = tmp_path / "source"
    for number in range(1500):
        path = source / f"series-{number % 3}" / f"{number:05d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
    first = pack(source, tmp_path / "one")
    assert first.files == 1500
    assert 3 < first.shards < 40
    assert first.tree_sha256 == hash_tree(source)
    os.utime(source / "series-0" / "00000.dcm", (1, 1))
    assert pack(source, tmp_path / "two") == first
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {path.name for path in (tmp_path / "two").iterdir()}
    (source / "series-1" / "00500.dcm").write_bytes(b"late")
    pack(source, tmp_path / "three")
    assert len({path.name for path in (tmp_path / "three").iterdir()} - names) == 1
    unpack(tmp_path / "three", tmp_path / "back")
    assert hash_tree(tmp_path / "back") == hash_tree(source)
    shard = next((tmp_path / "one").iterdir())
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(DataRejected, match="is damaged"):
        unpack(tmp_path / "one", tmp_path / "never")
