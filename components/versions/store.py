"""The version store: records of saved versions beside a DVC repository of its own, which holds their shards.

DVC is run by its command line. Its repository is apart from that of the checkout (`dvc init --no-scm`), so that a
workspace outside git has versions too, and that raw DICOM never meets the remote of the de-identified data.
"""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from components.versions.shards import Packed
from mira.cases import Record, Role
from mira.errors import ConfigurationError, DataRejected, RetryableError
from mira.storage import read_json, write_json, write_text
from mira.tasks import Modality

Remote = Literal["deidentified", "raw"]
PARTS: dict[str, Remote] = {
    "cases": "deidentified",
    "validation": "deidentified",
    "pairs": "deidentified",
    "inbox": "raw",
}
PRIVATE = 0o700

_CONFIG = """[core]
    no_scm = true
    analytics = false
    check_update = false
[cache]
    type = "hardlink,copy"
['remote "deidentified"']
    url = ../remote/deidentified
['remote "raw"']
    url = ../remote/raw
"""


class Part(Record):
    """One folder of a version.

    Attributes:
        pointer: what DVC finds it by, the `outs` entry of its .dvc file.
        remote: the remote it was pushed to.
        packed: its files, bytes, shards and hash.
    """

    pointer: dict[str, Any]
    remote: Remote
    packed: Packed


class Line(Record):
    """What a version's record keeps of a case: no pseudonym of a patient, so that the record may go into git.

    Attributes:
        site: site id.
        role: role of the site.
        modality: its modality.
        content: first digits of the hash of its source pixels.
        splits: split of its pairs; "" for a case without pairs.
    """

    site: str
    role: Role
    modality: Modality
    content: str
    split: str = ""


class Version(Record):
    """The record of a saved version, `<name>.json`.

    Attributes:
        name: name of the version: the `data_version` that trainings show, or a hash of the cases without pairs.
        created: when it was saved, UTC.
        note: what the person who saved it wrote.
        software: name and version of the software.
        parts: its folders.
        patients: number of patients.
        cases: by case id.
    """

    name: str
    created: str
    note: str = ""
    software: str
    parts: dict[str, Part]
    patients: int = 0
    cases: dict[str, Line] = Field(default_factory=dict)


class Store:
    """A folder of version records with its DVC repository.

    Attributes:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def prepare(self) -> None:
        """Make the DVC repository on first use, with a folder below the store as remote until another is named."""
        if (self.root / ".dvc" / "config").is_file():
            return
        self.root.mkdir(parents=True, exist_ok=True)
        write_text(
            self.root / ".gitignore",
            "# records of versions are kept in git, their content never\n*\n!*.json\n!profiles/\n!.gitignore\n",
        )
        self._dvc("init", "--no-scm", "--force")
        (self.root / ".dvc").chmod(PRIVATE)
        for name in ("deidentified", "raw"):
            (self.root / "remote" / name).mkdir(parents=True, exist_ok=True, mode=PRIVATE)
        write_text(self.root / ".dvc" / "config", _CONFIG)  # last: with it, the repository is whole

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other saves and restores of this store out, and remove what a killed one left.

        Raises:
            RetryableError: when another one is at work.
        """
        self.prepare()
        with (self.root / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RetryableError(
                    f"Another `mira data` is at work in {self.root}. Wait for it, then try again."
                ) from None
            self._clear()
            try:
                yield
            finally:
                self._clear()

    def _clear(self) -> None:
        """Remove the packed copies; what was pushed is in the remote."""
        for part in PARTS:
            shutil.rmtree(self.root / part, ignore_errors=True)
            (self.root / f"{part}.dvc").unlink(missing_ok=True)
        shutil.rmtree(self.root / ".dvc" / "cache", ignore_errors=True)

    def folder(self, part: str) -> Path:
        """Where the shards of a part lie while it is saved or restored; for its owner alone."""
        folder = self.root / part
        folder.mkdir(mode=PRIVATE)
        return folder

    def push(self, parts: list[str]) -> dict[str, dict[str, Any]]:
        """Store packed parts in their remotes and return their pointers.

        Raises:
            RetryableError: when a remote is away.
        """
        self._dvc("add", *parts)
        for remote, chosen in _by_remote(parts).items():
            self._dvc("push", "--remote", remote, *(f"{part}.dvc" for part in chosen))
        return {
            part: yaml.safe_load((self.root / f"{part}.dvc").read_text(encoding="utf-8"))["outs"][0] for part in parts
        }

    def pull(self, version: Version, parts: list[str]) -> None:
        """Bring the shards of parts of a version from their remotes.

        Raises:
            RetryableError: when a remote is away, or lacks a shard.
        """
        for part in parts:
            pointer = yaml.safe_dump({"outs": [version.parts[part].pointer | {"path": part}]})  # nowhere else
            write_text(self.root / f"{part}.dvc", pointer)
        for remote, chosen in _by_remote(parts).items():
            self._dvc("pull", "--remote", remote, *(f"{part}.dvc" for part in chosen))

    def set_remote(self, name: Remote, url: str, options: dict[str, str]) -> None:
        """Name the place of a remote: a folder, or an URL that DVC knows (s3://, gs://, azure://, ssh://).

        Raises:
            ConfigurationError: when DVC does not accept it.
        """
        self.prepare()
        if "://" not in url:
            folder = Path(url).absolute()
            folder.mkdir(parents=True, exist_ok=True, mode=PRIVATE)
            url = str(folder)
        self._dvc("remote", "add", "--force", name, url)
        for key, value in options.items():
            self._dvc("remote", "modify", name, key, value)

    def versions(self) -> list[Version]:
        """All saved versions, the oldest first."""
        found = [Version.model_validate(read_json(path)) for path in self.root.glob("*.json")]
        return sorted(found, key=lambda version: (version.created, version.name))

    def find(self, name: str) -> Version:
        """The version of a name or of a unique beginning of one; of several with one `data_version`, the newest.

        Raises:
            ConfigurationError: when there is none, or when several begin so.
        """
        every = self.versions()
        family = [version for version in every if version.name.split(".")[0] == name]
        exact = [version for version in every if version.name == name and "." in name]
        begins = [version for version in every if len(name) >= 4 and version.name.startswith(name)]
        if exact or family:
            return (exact or family)[-1]
        if len(begins) == 1:
            return begins[0]
        known = ", ".join(version.name for version in every) or "none yet"
        what = f"{len(begins)} versions begin with {name}" if begins else f"No version {name} was saved in {self.root}"
        raise ConfigurationError(f"{what}. Saved: {known}.")

    def write(self, version: Version) -> None:
        """Store a version's record, after its shards were pushed: with the record, the version is whole."""
        write_json(self.root / f"{version.name}.json", version.model_dump(mode="json"))

    def _dvc(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, umask=0o077, check=False)
        if done.returncode == 0:
            return
        if "No module named dvc" in done.stderr:
            raise ConfigurationError("DVC is not installed here. Install it with: pip install 'mira-net[versions]'.")
        why = (
            " ".join(line for line in done.stderr.splitlines() if line.startswith(("ERROR", "md5:")))
            or "no reason given"
        )
        if "requires 'dvc-s3'" in why:
            raise ConfigurationError("S3 needs its plug-in. Install it with: pip install 'mira-net[s3]'.")
        if arguments[0] == "remote":
            raise ConfigurationError(f"DVC did not accept the remote. {why}")
        if "missing-files" in done.stderr:
            raise DataRejected(f"The remote lacks files of the version; nothing was changed. {why}")
        raise RetryableError(f"`dvc {arguments[0]}` failed; no version was changed. {why}")


def _by_remote(parts: list[str]) -> dict[Remote, list[str]]:
    return {
        remote: chosen for remote in ("deidentified", "raw") if (chosen := [p for p in parts if PARTS[p] == remote])
    }
