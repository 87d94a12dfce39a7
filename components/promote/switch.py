"""Switching versions on disk: every step can be taken back, and what a killed promotion left behind is repaired."""

import os
import secrets
import shutil
from pathlib import Path

from components.promote.paths import ServingPaths
from components.promote.repository import CONFIGURATION, candidates, points_to, remove_candidates, verify, write_served
from components.promote.served import Served
from mira.storage import hash_file


class Switch:
    """Changes which version some models serve, on disk, and can take it all back.

    Args:
        paths: where things lie.
    """

    def __init__(self, paths: ServingPaths) -> None:
        self._paths = paths
        # a name of its own: what a killed change set aside stays until `repair` has looked at it
        self._aside = paths.models / f".undo-{secrets.token_hex(8)}"
        self._aside.mkdir(parents=True)
        self._moved: list[tuple[Path, Path]] = []
        self._made: list[Path] = []

    def move_in(self, model: str, version: int) -> None:
        """Rename a candidate's version folder into the served tree; one of the same number is set aside."""
        target = self._paths.models / model / str(version)
        target.parent.mkdir(exist_ok=True)
        if target.exists():
            self._set_aside(target)
        os.rename(candidates(self._paths) / model / str(version), target)
        self._made.append(target)

    def point(self, model: str, version: int) -> None:
        """Make a model's configuration that of one of its versions."""
        folder = self._paths.models / model
        release = folder / str(version) / "release"
        for part in CONFIGURATION:
            target = folder / part
            fresh = self._aside / f"new-{model}-{part}"  # what is not copied to its end goes with what was set aside
            if (release / part).is_dir():
                shutil.copytree(release / part, fresh)
            else:
                shutil.copyfile(release / part, fresh)
            if target.exists() or target.is_symlink():
                self._set_aside(target)
            os.rename(fresh, target)
            self._made.append(target)

    def record(self, served: Served) -> None:
        """Write `served.json`; the one before is kept under a second name, so that undoing needs no space."""
        target = self._paths.served
        if target.exists():
            aside = self._aside / str(len(self._moved))
            os.link(target, aside)
            self._moved.append((target, aside))
        else:
            self._made.append(target)
        write_served(self._paths, served)

    def undo(self) -> None:
        """Put everything back as it was, with its times, so that Triton sees no change where there is none."""
        for path in reversed(self._made):
            _remove(path)
        for original, aside in reversed(self._moved):
            if original.is_dir():
                shutil.rmtree(original)
            os.rename(aside, original)  # takes the place of a file at once
        for model in {path.relative_to(self._paths.models).parts[0] for path in self._made}:
            folder = self._paths.models / model
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        self.finish()

    def finish(self) -> None:
        """Forget what was set aside."""
        shutil.rmtree(self._aside, ignore_errors=True)
        self._moved, self._made = [], []

    def _set_aside(self, target: Path) -> None:
        aside = self._aside / str(len(self._moved))
        os.rename(target, aside)
        self._moved.append((target, aside))


def repair(paths: ServingPaths, served: Served) -> None:
    """Make the tree agree with `served.json` before a start: after a promotion that was killed, this undoes it.

    Raises:
        ServingFailed: when a served network is missing or is not the one that was promoted.
    """
    remove_candidates(paths)
    remove_half_copied(paths)
    for leftover in paths.models.glob(".undo-*"):
        _put_back(paths, leftover, served)
    if served.version is None:
        return
    verify(paths, served, served.version)
    for model in served.models:
        for folder in (paths.models / model).iterdir():
            if folder.name.isdigit() and int(folder.name) not in served.releases:
                shutil.rmtree(folder)  # of a promotion that was cut off
        if not points_to(paths, model, served.version):
            switch = Switch(paths)
            try:
                switch.point(model, served.version)
            except BaseException:
                switch.undo()
                raise
            switch.finish()


def remove_half_copied(paths: ServingPaths) -> None:
    """Remove configurations that were cut off while they were copied into a model's folder, as was done before."""
    for path in paths.models.glob("*/.new-*"):
        _remove(path)


def _put_back(paths: ServingPaths, leftover: Path, served: Served) -> None:
    """Nothing of a killed change is needed, but the network of a release on record that it had set aside."""
    releases = sorted(served.releases.items(), key=lambda release: release[0] != served.version)  # what serves first
    for folder in leftover.iterdir():
        if not (folder / "model.onnx").is_file():
            continue
        digest = hash_file(folder / "model.onnx")
        for target in (
            paths.models / model / str(version)
            for version, release in releases
            for model, wanted in release.artifacts.items()
            if wanted == digest
        ):
            current = target / "model.onnx"
            if not (current.is_file() and hash_file(current) == digest):
                _remove(target)
                target.parent.mkdir(exist_ok=True)
                os.rename(folder, target)
                break
    shutil.rmtree(leftover, ignore_errors=True)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
