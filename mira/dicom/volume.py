"""From the files of one series to volumes in physical units, with the headers they came from.

Interface for writers of derived series: `SeriesVolume.headers[i]` and `.files[i]` belong to slice i, and
`volume.voxels / suv_factor` is what slope and intercept of the source made of its stored values.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mira.cases import Conversion, PetDose
from mira.dicom import headers as h
from mira.dicom.elements import Fetched
from mira.dicom.geometry import PHASE_KEYWORDS, Plane, grid, split_by_orientation, split_repeats, split_runs
from mira.dicom.headers import is_placeholder, tolerant
from mira.dicom.pixels import Slice, is_whole, read_slices, rescale
from mira.dicom.reasons import Reason, Refused
from mira.dicom.suv import PetScale, pet_scale
from mira.dicom.syntaxes import may_be_lossy
from mira.dicom.triage import is_enhanced, modality
from mira.dicom.units import mr_scale, rescale_inputs
from mira.tasks import Modality, Unit
from mira.volume import Volume

PLAIN = {
    Modality.CT: PetScale("HU", Unit.HU, 1.0, ""),
    Modality.MR: PetScale("a.u.", Unit.MR, 1.0, ""),
}


@dataclass(frozen=True)
class SeriesVolume:
    """One volume of a series.

    Attributes:
        volume: voxels [slices, rows, columns] in `unit`, slices ordered along the normal of the image plane; float32,
            or int16 where `read_volumes` was asked to leave them so.
        unit: unit of the voxels; a PET that cannot be SUV stays in BQML.
        modality: CT, PET or MR.
        headers: one dataset per slice, in slice order, without pixel data; for an enhanced multi-frame image a
            dataset per frame, flattened from its functional groups.
        files: the source file of each slice, in slice order.
        suv_factor: PET: voxel value per unit of the source's rescaled values; 1.0 for everything else.
        conversion: formula and inputs of the way from stored values to voxels.
        pet_dose: inputs of the conversion from activity to SUVbw, None without one.
        unit_refusal: for a PET in BQML, why it is not SUVbw; "" otherwise.
        mr_scale: robust intensity scale of an MR volume, None otherwise.
        warnings: codes of what was odd but could be handled.
        source_sha256: hash of the hashes of the slices' stored values, in slice order; equal for every lossless
            transfer syntax.
    """

    volume: Volume
    unit: Unit
    modality: Modality
    headers: list[Dataset]
    files: list[Path]
    suv_factor: float
    conversion: Conversion
    pet_dose: PetDose | None
    unit_refusal: str
    mr_scale: float | None
    warnings: list[str]
    source_sha256: str


@dataclass(frozen=True)
class Refusal:
    """A part of a series that did not become a volume: which files, and why.

    Attributes:
        files: the files; of an enhanced image only some of the frames may be meant.
        reason: the reason code.
        detail: figures, never text of a header.
        slices: how many slices, where the file could be read; 0 otherwise.
    """

    files: list[Path]
    reason: Reason
    detail: str = ""
    slices: int = 0


@dataclass(frozen=True)
class SeriesResult:
    """Everything a series gave.

    Attributes:
        volumes: its volumes.
        refusals: what was left out, with the reason.
        duplicates: files of copies that were dropped.
        left_out: of every file with frames that are in no volume, the share of its frames that is not.
    """

    volumes: list[SeriesVolume] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    duplicates: list[Path] = field(default_factory=list)
    left_out: dict[Path, float] = field(default_factory=dict)


def read_series(files: Iterable[Path]) -> SeriesVolume:
    """Read the files of one series as exactly one volume.

    Args:
        files: the DICOM files of the series, in any order.

    Raises:
        Refused: with the reason, when the series is no faithful volume, or holds several (use `read_volumes`).
    """
    result = read_volumes(files)
    if len(result.volumes) > 1:
        raise Refused(Reason.SEVERAL_VOLUMES, f"{len(result.volumes)} volumes")
    if not result.volumes:
        worst = max(result.refusals, key=lambda refusal: len(refusal.files))
        raise Refused(worst.reason, worst.detail)
    return result.volumes[0]


def read_volumes(
    files: Iterable[Path], fetched: Mapping[Path, Fetched] | None = None, *, compact: bool = False
) -> SeriesResult:
    """Read the files of one series as the volumes that are in it; nothing is left out without a reason.

    Args:
        files: the DICOM files of the series, in any order.
        fetched: content of those files that the caller has read already.
        compact: leave the voxels of a CT of whole numbers in 16 bits, for a caller that only stores them.

    Returns:
        One volume per orientation and per repeat of the positions (echo, time point, acquisition), and a refusal
        for every file that is in none of them.
    """
    refused: dict[tuple[Reason, str], list[Path]] = defaultdict(list)
    pieces: list[tuple[Slice, Plane]] = []
    frames: Counter[Path] = Counter()
    unreadable: set[Path] = set()
    with tolerant():
        for path in sorted(files):
            try:
                content = read_slices(path, (fetched or {}).get(path))
                planes = [Plane(piece.header) for piece in content.slices]
            except Refused as error:
                refused[error.reason, error.detail].append(path)
                unreadable.add(path)
                continue
            pieces += zip(content.slices, planes, strict=True)
            for why in content.refused:
                refused[why.reason, why.detail].append(path)
            frames[path] = len(content.slices) + len(content.refused)
        pieces, dropped = _without_duplicates(pieces)
        volumes = []
        parts = list(_parts(pieces))
        for members, doubt in parts:
            try:
                if doubt is not None:
                    raise doubt
                volumes.append(_assemble(members, ["duplicate-slices-dropped"] if dropped else [], compact))
            except Refused as error:
                detail = error.detail
                if error.reason is Reason.TOO_FEW and len(parts) > 1:
                    detail += f" in one of {len(parts)} parts: orientations, echoes, time points or acquisitions"
                refused[error.reason, detail] += [piece.file for piece, _ in members]
    refusals = [
        Refusal(sorted(set(paths)), reason, detail, sum(path not in unreadable for path in paths))
        for (reason, detail), paths in refused.items()
    ]
    used = Counter(path for volume in volumes for path in volume.files)
    left_out = {path: 1 - used[path] / frames[path] for path in frames if used[path] < frames[path]}
    return SeriesResult(volumes, refusals, dropped, left_out | dict.fromkeys(unreadable, 1.0))


def _parts(pieces: list[tuple[Slice, Plane]]) -> Iterator[tuple[list[tuple[Slice, Plane]], Refused | None]]:
    """Slices that may form a volume each, ordered along their normal; with a refusal where that cannot be told."""
    for group in split_by_orientation([plane for _, plane in pieces], [piece.header for piece, _ in pieces]):
        members = [pieces[index] for index in group]
        planes, headers = [plane for _, plane in members], [piece.header for piece, _ in members]
        try:
            repeats = split_repeats(planes, headers)
        except Refused as error:
            yield members, error
            continue
        for repeat in repeats:
            for run in split_runs(planes, headers, repeat):
                yield [members[index] for index in run], None


def _without_duplicates(pieces: list[tuple[Slice, Plane]]) -> tuple[list[tuple[Slice, Plane]], list[Path]]:
    """Drop copies: same position and stored values, and the same instance, or one that was only given a new UID."""
    crowded = Counter(plane.position.tobytes() for _, plane in pieces)
    kept: list[tuple[Slice, Plane]] = []
    dropped: list[Path] = []
    seen: dict[tuple[bytes, bytes], list[Slice]] = defaultdict(list)
    for piece, plane in pieces:
        position = plane.position.tobytes()
        if crowded[position] > 1:
            others = seen[position, piece.digest]
            if any(_is_copy(piece, other) for other in others):
                dropped.append(piece.file)
                continue
            others.append(piece)
        kept.append((piece, plane))
    return kept, dropped


def _is_copy(piece: Slice, other: Slice) -> bool:
    """Whether two slices of equal stored values at one position are one slice that was sent twice."""
    if piece.file == other.file or piece.stored.dtype != other.stored.dtype:
        return False
    instances = [h.text(one.header, "SOPInstanceUID") for one in (piece, other)]
    return instances[0] == instances[1] or all(
        h.text(piece.header, keyword) == h.text(other.header, keyword)
        for keyword in ("InstanceNumber", *PHASE_KEYWORDS)
    )


def _assemble(members: list[tuple[Slice, Plane]], warnings: list[str], compact: bool) -> SeriesVolume:
    """Make the volume of slices that are ordered along the normal and repeat no position."""
    pieces = [piece for piece, _ in members]
    headers = [piece.header for piece in pieces]
    affine = grid([plane for _, plane in members])
    kinds = {modality(header) for header in headers}
    if len(kinds) != 1:
        raise Refused(Reason.BAD_GEOMETRY, "several modalities in one series")
    kind = Modality.from_dicom(kinds.pop())
    found = set(warnings) | _oddities(headers)
    whole = compact and kind is Modality.CT and all(is_whole(piece) for piece in pieces)
    voxels: NDArray[Any] = np.empty((len(pieces), *members[0][1].size), np.int16 if whole else np.float32)
    digest = hashlib.sha256()
    for index, piece in enumerate(pieces):
        if piece.stored.shape != voxels.shape[1:]:
            raise Refused(Reason.UNDECODABLE, "the pixels do not fill the matrix that the header declares")
        digest.update(piece.digest)
        found |= rescale(piece, kind, voxels[index])
    if not any((piece != voxels[0, 0, 0]).any() for piece in voxels):
        raise Refused(Reason.EMPTY_IMAGE)
    intensity = mr_scale(voxels) if kind is Modality.MR else None
    scale = pet_scale(headers) if kind is Modality.PET else PLAIN[kind]
    if scale.factor != 1.0:
        voxels *= np.float32(scale.factor)
    return SeriesVolume(
        volume=Volume(voxels, affine),
        unit=scale.unit,
        modality=kind,
        headers=headers,
        files=[piece.file for piece in pieces],
        suv_factor=scale.factor,
        conversion=Conversion(
            source_unit=scale.source,
            factor=scale.factor,
            formula="; ".join(filter(None, [scale.formula, f"{scale.source} = stored * slope + intercept"])),
            inputs=rescale_inputs(headers) | scale.inputs,
        ),
        pet_dose=scale.dose,
        unit_refusal=scale.refusal,
        mr_scale=intensity,
        warnings=sorted(found | set(scale.warnings)),
        source_sha256=digest.hexdigest(),
    )


def _oddities(headers: list[Dataset]) -> set[str]:
    """Codes of what is odd in the headers but harms no voxel."""
    first, found = headers[0], set[str]()
    instances = [h.text(header, "SOPInstanceUID") for header in headers]
    if not is_enhanced(first) and ("" in instances or len(set(instances)) != len(instances)):
        found.add("duplicate-sop-instance-uid" if all(instances) else "missing-sop-instance-uid")
    if is_placeholder(h.text(first, "PatientID")):
        found.add("missing-patient-id")
    if not h.uid(first, "SeriesInstanceUID"):
        found.add("missing-series-uid")
    if not h.uid(first, "StudyInstanceUID"):
        found.add("missing-study-uid")
    if h.text(first, "StudyDate") and h.moment(h.text(first, "StudyDate"), "00") is None:
        found.add("invalid-date")
    if "DERIVED" in h.text(first, "ImageType").upper():
        found.add("derived-image")
    if any(h.text(item, "CodeValue") == "SIMULATED" for item in h.items(first, "DerivationCodeSequence")):
        found.add("simulated")
    if any(may_be_lossy(header) for header in headers):
        found.add("lossy-compressed")
    if h.text(first, "PhotometricInterpretation").upper() == "MONOCHROME1":
        found.add("inverted-display")
    return found
