"""Pixels that the reader changed: those that hold no measurement, and CT values below air; and what was stored there.

The reader turns them into air or zero, because a network and a metric need numbers that mean something. A derived
series must not: what lay outside the scanner's field of view lies there still, and viewers and segmentation software
know it by its value; and a value below air that no network has seen was not restored.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from mira.dicom import headers as h
from mira.dicom.faults import why
from mira.dicom.pixels import AIR_HU, PADDING_HU_AT_MOST, Slice, padding_range, read_slices
from mira.dicom.reasons import Refused
from mira.dicom.volume import SeriesVolume
from mira.errors import DataRejected
from mira.tasks import Modality

CHANGED_BY_READER = {"padding-set-to-air", "padding-set-to-zero", "below-air-set-to-air"}
UNDECLARED_HU = -1500.0  # far below any noise in air: scanners fill the corners with -2000, -2048, -3024


@dataclass(frozen=True)
class Padding:
    """The pixels of one slice that hold no measurement.

    Attributes:
        where: bool [rows, columns].
        values: float64 [rows, columns], what slope and intercept of the source make of its stored values.
        declared: whether the source names them by a Pixel Padding Value.
        clipped: bool [rows, columns], the measured pixels that the reader made air, since they are below it.
    """

    where: NDArray[np.bool_]
    values: NDArray[np.float64]
    declared: bool
    clipped: NDArray[np.bool_]

    @property
    def lowest(self) -> float | None:
        """The lowest of its values, None where all pixels are measured."""
        return float(self.values[self.where].min()) if self.where.any() else None


def paddings(source: SeriesVolume) -> list[Padding | None]:
    """What the reader changed in each slice, None where it changed nothing; files are read again where it did.

    Raises:
        DataRejected: when a file of the series is gone or has changed.
    """
    if not CHANGED_BY_READER & set(source.warnings):
        return [None] * len(source.files)
    last: tuple[Path, list[Slice]] | None = None
    found = []
    for path, header in zip(source.files, source.headers, strict=True):
        try:
            if last is None or last[0] != path:  # frames of one file follow each other
                last = path, read_slices(path).slices
        except (Refused, OSError) as error:
            reason = error if isinstance(error, Refused) else why(error)
            raise DataRejected(
                "A source file of this series cannot be read any more; its padding would be lost. Keep the source "
                f"until the derived series is written ({reason})."
            ) from error
        found.append(_padding(_of(last[1], header), source.modality))
    return found


def _of(slices: list[Slice], header: Dataset) -> Slice:
    """The slice that a header belongs to: of a multi-frame file the frame of its number."""
    if len(slices) == 1:
        return slices[0]
    number = h.number(header, "InstanceNumber")
    return next(piece for piece in slices if h.number(piece.header, "InstanceNumber") == number)


def _padding(piece: Slice, modality: Modality) -> Padding | None:
    slope = h.number(piece.header, "RescaleSlope")
    values = piece.stored * (1.0 if slope is None else slope) + (h.number(piece.header, "RescaleIntercept") or 0.0)
    below = values.astype(np.float32) < AIR_HU if modality is Modality.CT else np.zeros(values.shape, bool)
    span = padding_range(piece)
    if span is not None:
        inside = (piece.stored >= span[0]) & (piece.stored <= span[1])
        tissue = modality is Modality.CT and inside.any() and values[inside].max() > PADDING_HU_AT_MOST
        if inside.any() and not tissue:
            return Padding(inside, values, True, below & ~inside)
    outside = below & (values <= UNDECLARED_HU)
    return Padding(outside, values, False, below & ~outside) if below.any() else None
