"""Save, restore and compare versions of the data: cases, validation, pairs and, when asked, the raw inbox."""

import shutil
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from components.versions.shards import Packed, content_hash, pack, unpack
from components.versions.store import PARTS, PRIVATE, Line, Part, Store, Version
from mira import __version__
from mira.cases import Record, iterate_cases
from mira.errors import ConfigurationError, DataRejected
from mira.pairs import read_index
from mira.storage import hash_tree, read_json, write_json

LAYOUT = {"cases": "cases", "validation": "stages/validation", "pairs": "pairs", "inbox": "inbox"}
STAGING = ".restoring"


class Saved(Record):
    """What a save did.

    Attributes:
        version: the version.
        new: whether there was anything to save.
    """

    version: Version
    new: bool


class Difference(Record):
    """What changed from one version to another.

    Attributes:
        before: name of the first version.
        after: name of the second.
        added: case ids that only the second has.
        removed: case ids that only the first has.
        changed: case ids of both with other source pixels, site or role.
        moved: case ids of both whose split changed.
        sites: site id -> [cases before, cases after].
        modalities: modality -> [cases before, cases after].
        parts: part -> whether its content is the same; parts of both only.
    """

    before: str
    after: str
    added: list[str]
    removed: list[str]
    changed: list[str]
    moved: list[str]
    sites: dict[str, tuple[int, int]]
    modalities: dict[str, tuple[int, int]]
    parts: dict[str, bool]


def data_folders(data: Path) -> dict[str, Path]:
    """Where a data folder (`data/` of a checkout) keeps each part."""
    return {part: data / place for part, place in LAYOUT.items()}


def workspace_folders(workspace: Path) -> dict[str, Path]:
    """Where the newest run of a workspace left each part.

    Raises:
        DataRejected: when the workspace holds no finished run.
    """
    path = workspace / "artifacts.json"
    if not path.is_file():
        raise DataRejected(f"{workspace} holds no artifacts.json: no run has finished in it. Run `mira run` first.")
    artifacts = read_json(path)
    return {part: Path(artifacts[part]) for part in ("cases", "validation", "pairs") if artifacts.get(part)}


def save(store: Store, folders: dict[str, Path], note: str = "", raw: bool = False) -> Saved:
    """Save the data as a version named by what trainings on it show.

    The record is written last: a save that is killed leaves the versions as they were. Saving the same data again
    adds nothing, but a raw inbox that was not saved with it before.

    Args:
        store: where versions are kept.
        folders: folder of each part; parts that do not exist or are empty are left out.
        note: words of the person who saves, kept in the record; it must name no patient.
        raw: also save the raw inbox, identifying DICOM, into the remote `raw`.

    Raises:
        DataRejected: when there are neither cases nor pairs, or no inbox although it is asked for.
        RetryableError: when a remote is away.
    """
    present = {part: path for part, path in folders.items() if _filled(path) and (raw or part != "inbox")}
    if not {"cases", "pairs"} & set(present):
        raise DataRejected("There are neither cases nor pairs to save. Run `mira ingest` or `mira run` first.")
    if raw and "inbox" not in present:
        raise DataRejected("There is no raw inbox to save. Name its folder with --raw FOLDER, or leave --raw out.")
    with store.locked():
        packed = {part: pack(path, store.folder(part)) for part, path in present.items()}
        name, known = _name(store, present, packed)
        if known is not None and set(packed) <= set(known.parts):
            return Saved(version=known, new=False)
        pointers = store.push(sorted(packed))
        parts = {p: Part(pointer=pointers[p], remote=PARTS[p], packed=packed[p]) for p in sorted(packed)}
        version = _describe(name, note, present, {**(known.parts if known else {}), **parts})
        if (profile := present.get("validation", Path()) / "profile.json").is_file():
            write_json(store.root / "profiles" / f"{name}.json", read_json(profile))
        store.write(version)
    return Saved(version=version, new=True)


def restore(store: Store, name: str, data: Path, raw: bool = False, discard: bool = False) -> Version:
    """Bring a version back into a data folder.

    Everything is fetched, unpacked and checked beside the folder first, then moved in. Killed before the move, the
    old data is untouched; killed during it, the next save or restore finishes it.

    Args:
        store: where versions are kept.
        name: the version, as `mira data list` or a training shows it.
        data: data folder, `data/` of a checkout.
        raw: also bring the raw inbox back.
        discard: replace data that was never saved.

    Raises:
        ConfigurationError: when no such version was saved, or it has no raw inbox.
        DataRejected: when present data was never saved, or a shard is damaged.
        RetryableError: when a remote is away.
    """
    version = store.find(name)
    if raw and "inbox" not in version.parts:
        raise ConfigurationError(f"Version {version.name} was saved without its raw inbox. Leave --raw out.")
    parts = [part for part in version.parts if raw or part != "inbox"]
    with store.locked():
        finish(data)
        targets = {part: data / LAYOUT[part] for part in parts}
        changing = {p: t for p, t in targets.items() if not _holds(t, version.parts[p].packed.content_sha256)}
        if not discard:
            _refuse_loss(store, changing)
        store.pull(version, sorted(changing))
        staging = data / STAGING
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True, mode=PRIVATE)
        for part in changing:
            unpack(store.root / part, staging / part)
            if hash_tree(staging / part) != version.parts[part].packed.tree_sha256:
                raise DataRejected(f"The restored {part} are not those that were saved; nothing was changed.")
        write_json(staging / "ready.json", {part: LAYOUT[part] for part in changing})
        finish(data)
    return version


def finish(data: Path) -> None:
    """Move a fetched version in; also ends a restore that was killed while it moved."""
    staging = data / STAGING
    if (staging / "ready.json").is_file():
        for part, place in read_json(staging / "ready.json").items():
            if not (staging / part).is_dir():
                continue  # moved before the restore was killed
            target = data / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                target.replace(staging / f"old-{part}")
            (staging / part).chmod(PRIVATE if PARTS[part] == "raw" else 0o755)
            (staging / part).replace(target)
    shutil.rmtree(staging, ignore_errors=True)


def diff(before: Version, after: Version) -> Difference:
    """What changed from one version to another, from their records alone."""
    old, new = before.cases, after.cases
    both = sorted(set(old) & set(new))
    return Difference(
        before=before.name,
        after=after.name,
        added=sorted(set(new) - set(old)),
        removed=sorted(set(old) - set(new)),
        changed=[c for c in both if old[c].model_copy(update={"split": ""}) != new[c].model_copy(update={"split": ""})],
        moved=[c for c in both if old[c].split != new[c].split],
        sites=_counts([line.site for line in old.values()], [line.site for line in new.values()]),
        modalities=_counts([line.modality for line in old.values()], [line.modality for line in new.values()]),
        parts={
            part: before.parts[part].packed.content_sha256 == after.parts[part].packed.content_sha256
            for part in before.parts
            if part in after.parts
        },
    )


def _name(store: Store, present: dict[str, Path], packed: dict[str, Packed]) -> tuple[str, Version | None]:
    """Name of what is to be saved, and the version that holds it already."""
    base = (
        read_index(present["pairs"]).data_version if "pairs" in present else f"cases-{packed['cases'].tree_sha256[:16]}"
    )
    family = [version for version in store.versions() if version.name.split(".")[0] == base]
    for version in family:
        shared = set(packed) & set(version.parts)
        if all(version.parts[part].packed.content_sha256 == packed[part].content_sha256 for part in shared):
            return version.name, version
    return (f"{base}.{len(family) + 1}" if family else base), None


def _describe(name: str, note: str, present: dict[str, Path], parts: dict[str, Part]) -> Version:
    records = [record for _, record in iterate_cases(present["cases"])] if "cases" in present else []
    splits = {pair.case_id: pair.split for pair in read_index(present["pairs"]).pairs} if "pairs" in present else {}
    return Version(
        name=name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        note=note,
        software=f"mira-net {__version__}",
        parts=parts,
        patients=len({record.patient for record in records}),
        cases={
            record.case_id: Line(
                site=record.site,
                role=record.role,
                modality=record.modality,
                content=record.source_sha256[:16],
                split=splits.get(record.case_id, ""),
            )
            for record in records
        },
    )


def _filled(folder: Path) -> bool:
    return folder.is_dir() and any(folder.iterdir())


def _holds(folder: Path, content: str) -> bool:
    return folder.is_dir() and content_hash(folder) == content


def _refuse_loss(store: Store, targets: dict[str, Path]) -> None:
    """Refuse to replace a folder whose content no version has."""
    saved = {part.packed.content_sha256 for version in store.versions() for part in version.parts.values()}
    lost = [part for part, path in targets.items() if _filled(path) and content_hash(path) not in saved]
    if lost:
        raise DataRejected(
            f"The present {' and '.join(sorted(lost))} were never saved and would be lost. Save them with `mira "
            "data save` (with --raw for the inbox), or restore with --discard."
        )


def _counts(before: list[str], after: list[str]) -> dict[str, tuple[int, int]]:
    old, new = Counter(before), Counter(after)
    return {name: (old[name], new[name]) for name in sorted({*old, *new})}
