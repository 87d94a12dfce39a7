"""What an accepted run leaves for the next one: its data as a version, and what drift and splits are compared with.

A run on new data is told its drift against the last accepted data, and keeps the splits of the patients it knows. A run
on the same data is given what the accepted run was given, so that every step of it can be re-used.
"""

import shutil
from pathlib import Path

from components.versions.actions import save, workspace_folders
from components.versions.store import Store
from mira.cases import Record
from mira.pairs import read_index
from mira.storage import atomic_folder, read_json, write_json

RECORD = "accepted.json"


class Accepted(Record):
    """The last run of a workspace whose candidate the gate approved.

    Attributes:
        data_fingerprint: hash of its sites' files.
        data_version: name of its data; `mira data restore` brings it back.
        baseline: profile.json that it was compared with; empty for none.
        previous: folder of the pairs.json whose splits it kept; empty for none.
    """

    data_fingerprint: str
    data_version: str
    baseline: str = ""
    previous: str = ""


def known_before(workspace: Path, data_fingerprint: str) -> tuple[str, str]:
    """Baseline and earlier splits for a run on the sites' present files; empty where nothing was accepted yet."""
    last = _last(workspace)
    if last is None:
        return "", ""
    if last.data_fingerprint == data_fingerprint:
        return last.baseline, last.previous
    return str(_profile(workspace, last.data_version)), str(_splits(workspace, last.data_version))


def accept(workspace: Path, data_fingerprint: str, baseline: str, previous: str) -> str:
    """Keep the data of a run that was just approved as a version, and return its name.

    Raises:
        RetryableError: when the place where versions are kept is away.
    """
    folders = workspace_folders(workspace)
    version = read_index(folders["pairs"]).data_version
    last = _last(workspace)
    if last is None or (last.data_fingerprint, last.data_version) != (data_fingerprint, version):
        save(Store(workspace / "data" / "versions"), folders)
        with atomic_folder(_splits(workspace, version)) as new:
            shutil.copyfile(folders["pairs"] / "pairs.json", new / "pairs.json")
        record = Accepted(data_fingerprint=data_fingerprint, data_version=version, baseline=baseline, previous=previous)
        write_json(workspace / RECORD, record.model_dump(mode="json"))
    return version


def _last(workspace: Path) -> Accepted | None:
    path = workspace / RECORD
    return Accepted.model_validate(read_json(path)) if path.is_file() else None


def _profile(workspace: Path, version: str) -> Path:
    return workspace / "data" / "versions" / "profiles" / f"{version}.json"


def _splits(workspace: Path, version: str) -> Path:
    return workspace / "data" / "splits" / version
