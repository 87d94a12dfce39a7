"""From the files of one series to volumes in physical units, with the headers they came from.

Interface for writers of derived series: `SeriesVolume.headers[i]` and `.files[i]` belong to slice i, and
`volume.voxels / suv_factor` is what slope and intercept of the source made of its stored values.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset

from mira.cases import PetDose
from mira.dicom import headers as h
from mira.dicom.geometry import Plane, grid, split_by_orientation, split_repeats
from mira.dicom.headers import is_placeholder, tolerant
from mira.dicom.pixels import Slice, read_slices, rescale
from mira.dicom.reasons import Reason, Refused
from mira.dicom.triage import is_enhanced, modality
from mira.dicom.units import PetScale, mr_scale, pet_scale
from mira.tasks import Modality, Unit
from mira.volume import Volume


@dataclass(frozen=True)
class SeriesVolume:
    """One volume of a series.

    Attributes:
        volume: voxels [slices, rows, columns] in `unit`, slices ordered along the normal of the image plane.
        unit: unit of the voxels; a PET that cannot be SUV stays in BQML.
        modality: CT, PET or MR.
        headers: one dataset per slice, in slice order, without pixel data; for an enhanced multi-frame image a
            dataset per frame, flattened from its functional groups.
        files: the source file of each slice, in slice order.
        suv_factor: PET in SUVbw from BQML: SUVbw per BQML; 1.0 for everything else.
        pet_dose: inputs and formula of the SUVbw conversion, None without one.
        unit_refusal: for a PET in BQML, why it is not SUVbw; "" otherwise.
        mr_scale: robust intensity scale of an MR volume, None otherwise.
        warnings: codes of what was odd but could be handled.
        source_sha256: hash of the decoded stored values in slice order; equal for every lossless transfer syntax.
    """

    volume: Volume
    unit: Unit
    modality: Modality
    headers: list[Dataset]
    files: list[Path]
    suv_factor: float
    pet_dose: PetDose | None
    unit_refusal: str
    mr_scale: float | None
    warnings: list[str]
    source_sha256: str


@dataclass(frozen=True)
class Refusal:
    """A part of a series that did not become a volume: which files, and why."""

    files: list[Path]
    reason: Reason
    detail: str = ""


@dataclass(frozen=True)
class SeriesResult:
    """Everything a series gave: its volumes, what was left out with the reason, and copies that were dropped."""

    volumes: list[SeriesVolume] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    duplicates: list[Path] = field(default_factory=list)


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


def read_volumes(files: Iterable[Path]) -> SeriesResult:
    """Read the files of one series as the volumes that are in it; nothing is left out without a reason.

    Args:
        files: the DICOM files of the series, in any order.

    Returns:
        One volume per orientation and per repeat of the positions (echo, time point, acquisition), and a refusal
        for every file that is in none of them.
    """
    refused: dict[tuple[Reason, str], list[Path]] = defaultdict(list)
    pieces: list[tuple[Slice, Plane]] = []
    with tolerant():
        for path in sorted(files):
            try:
                pieces += [(piece, Plane(piece.header)) for piece in read_slices(path)]
            except Refused as error:
                refused[error.reason, error.detail].append(path)
        pieces, dropped = _without_duplicates(pieces)
        volumes = []
        for group in split_by_orientation([plane for _, plane in pieces]):
            members = [pieces[index] for index in group]
            try:
                parts = split_repeats([plane for _, plane in members], [piece.header for piece, _ in members])
            except Refused as error:
                refused[error.reason, error.detail] += [piece.file for piece, _ in members]
                continue
            for part in parts:
                chosen = [members[index] for index in part]
                try:
                    volumes.append(_assemble(chosen, ["duplicate-slices-dropped"] if dropped else []))
                except Refused as error:
                    refused[error.reason, error.detail] += [piece.file for piece, _ in chosen]
    refusals = [Refusal(sorted(set(paths)), reason, detail) for (reason, detail), paths in refused.items()]
    return SeriesResult(volumes, refusals, dropped)


def _without_duplicates(pieces: list[tuple[Slice, Plane]]) -> tuple[list[tuple[Slice, Plane]], list[Path]]:
    """Drop copies: same instance UID, same position and same stored values."""
    kept: list[tuple[Slice, Plane]] = []
    dropped: list[Path] = []
    seen: dict[tuple[str, bytes], list[Slice]] = defaultdict(list)
    for piece, plane in pieces:
        others = seen[h.text(piece.header, "SOPInstanceUID"), plane.position.tobytes()]
        if any(other.file != piece.file and np.array_equal(other.stored, piece.stored) for other in others):
            dropped.append(piece.file)
            continue
        others.append(piece)
        kept.append((piece, plane))
    return kept, dropped


def _assemble(members: list[tuple[Slice, Plane]], warnings: list[str]) -> SeriesVolume:
    """Make the volume of slices that are ordered along the normal and repeat no position."""
    pieces = [piece for piece, _ in members]
    headers = [piece.header for piece in pieces]
    affine = grid([plane for _, plane in members])
    kinds = {modality(header) for header in headers}
    if len(kinds) != 1:
        raise Refused(Reason.BAD_GEOMETRY, "several modalities in one series")
    kind = Modality.from_dicom(kinds.pop())
    found = set(warnings) | _oddities(headers)
    voxels = np.empty((len(pieces), *members[0][1].size), dtype=np.float32)
    digest = hashlib.sha256()
    for index, piece in enumerate(pieces):
        if piece.stored.shape != voxels.shape[1:]:
            raise Refused(Reason.UNDECODABLE, "the pixels do not fill the matrix that the header declares")
        digest.update(piece.stored.astype("<i4").tobytes())
        found |= rescale(piece, kind, voxels[index])
    if voxels.min() == voxels.max():
        raise Refused(Reason.EMPTY_IMAGE)
    unit, scale, intensity = Unit.HU, PetScale(), None
    if kind is Modality.PET:
        scale = pet_scale(headers)
        unit = Unit.BQML if scale.refusal else Unit.SUVBW
        if scale.factor != 1.0:
            voxels *= np.float32(scale.factor)
    elif kind is Modality.MR:
        unit, intensity = Unit.MR, mr_scale(voxels)
    return SeriesVolume(
        volume=Volume(voxels, affine),
        unit=unit,
        modality=kind,
        headers=headers,
        files=[piece.file for piece in pieces],
        suv_factor=scale.factor,
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
    if h.text(first, "LossyImageCompression") == "01":
        found.add("lossy-compressed")
    if h.text(first, "PhotometricInterpretation").upper() == "MONOCHROME1":
        found.add("inverted-display")
    return found
