"""Attenuation of annihilation photons, from the CT that was taken with the PET.

CT numbers become attenuation at 511 keV by two lines (Burger et al., Eur J Nucl Med 29:922-927, 2002): below the break
point tissue is a mix of air and water, above it of water and bone, whose CT number depends on the tube voltage. Slopes
and break points: Carney et al., Med Phys 33:976-983, 2006.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mira.volume import Volume

Array = NDArray[np.float32]
WATER_511_PER_MM = 0.0096
# kVp: (slope in 1/mm per HU and attenuation at -1000 HU above the break point, break point in HU)
BONE_LINES = {
    80: (3.64e-6, 6.26e-3, 50.0),
    100: (4.43e-6, 5.44e-3, 52.0),
    110: (4.92e-6, 4.88e-3, 43.0),
    120: (5.10e-6, 4.71e-3, 47.0),
    130: (5.51e-6, 4.24e-3, 37.0),
    140: (5.64e-6, 4.08e-3, 30.0),
}
DEFAULT_KVP = 120.0


class Attenuation(Protocol):
    """Attenuation on the grid of a PET volume, slice by slice."""

    def slices(self, start: int, stop: int) -> Array:
        """Linear attenuation at 511 keV in 1/mm, [n, rows, columns]; NaN where it is not known."""
        ...


@dataclass(frozen=True)
class PairedCt:
    """The CT of a PET/CT examination.

    Attributes:
        volume: CT numbers in HU, in the frame of reference of the PET.
        kvp: tube voltage; None where the DICOM does not say.
    """

    volume: Volume
    kvp: float | None = None


def mu_from_hu(hu: Array, kvp: float | None = None) -> Array:
    """Attenuation at 511 keV in 1/mm; tube voltages between those of the table take the nearest one's line."""
    slope, at_air, break_hu = BONE_LINES[min(BONE_LINES, key=lambda known: abs(known - (kvp or DEFAULT_KVP)))]
    above_air = np.maximum(hu + np.float32(1000), np.float32(0))
    soft = above_air * np.float32(WATER_511_PER_MM / 1000)
    bone = above_air * np.float32(slope) + np.float32(at_air)
    mu: Array = np.where(hu < break_hu, soft, bone).astype(np.float32)
    return mu


class CtAttenuation:
    """A CT resampled onto a PET grid when slices are asked for; it holds no more than a few CT slices at a time."""

    def __init__(self, ct: PairedCt, pet: Volume) -> None:
        """Relate both grids.

        Args:
            ct: the CT; its voxels may be memory-mapped.
            pet: the PET volume, for its geometry.
        """
        self._voxels, self._kvp = ct.volume.voxels, ct.kvp
        self._shape = pet.voxels.shape
        # CT pixels are averaged over blocks about as large as a PET pixel, so that none is skipped
        spacing, wanted = ct.volume.spacing, pet.spacing
        self._rows = max(1, round(wanted[1] / spacing[1]))
        self._columns = max(1, round(wanted[2] / spacing[2]))
        to_ct = np.linalg.inv(ct.volume.affine) @ pet.affine  # (column, row, slice) of the PET to those of the CT
        blocks = np.array([self._columns, self._rows, 1.0])
        to_ct[:3, 3] -= (blocks - 1) / 2
        to_ct[:3] /= blocks[:, None]
        order = [2, 1, 0]
        self._matrix, self._offset = to_ct[:3, :3][np.ix_(order, order)], to_ct[:3, 3][order]

    def coverage(self) -> float:
        """Share of the PET's slices whose middle lies within the CT."""
        count, rows, columns = self._shape
        middle = np.array([[index, (rows - 1) / 2, (columns - 1) / 2] for index in range(count)])
        places = middle @ self._matrix.T + self._offset
        shape = np.array(self._voxels.shape) / (1, self._rows, self._columns)
        return float(np.mean(np.all((places > -0.5) & (places < shape - 0.5), axis=1)))

    def slices(self, start: int, stop: int) -> Array:
        """See `Attenuation`."""
        return np.stack([self._slice(index) for index in range(start, stop)])

    def _slice(self, index: int) -> Array:
        from scipy.ndimage import affine_transform  # heavy

        _, rows, columns = self._shape
        corners = np.array([[index, row, column] for row in (0, rows - 1) for column in (0, columns - 1)])
        depth = corners @ self._matrix[0] + self._offset[0]
        last = len(self._voxels) - 1
        # a slice beyond the first or last CT slice by less than half a slice still takes that one
        first = int(np.clip(np.floor(depth.min() + 1e-3), 0, last))
        stop = int(np.clip(np.ceil(depth.max() - 1e-3), 0, last)) + 1
        if depth.max() < -0.5 or depth.min() > last + 0.5:
            return np.full((rows, columns), np.nan, dtype=np.float32)
        block = self._blocks(mu_from_hu(np.asarray(self._voxels[first:stop], dtype=np.float32), self._kvp))
        offset = self._offset + self._matrix[:, 0] * index
        offset[0] -= first
        if stop - first == 1:  # a plane of the CT: nothing to interpolate between
            matrix = self._matrix[1:, 1:]
            return np.asarray(
                affine_transform(block[0], matrix, offset[1:], (rows, columns), order=1, cval=np.nan), dtype=np.float32
            )
        sampled = affine_transform(block, self._matrix, offset, (1, rows, columns), order=1, cval=np.nan)
        return np.asarray(sampled[0], dtype=np.float32)

    def _blocks(self, mu: Array) -> Array:
        """Mean over blocks of CT pixels; an incomplete last block is left out."""
        n, rows, columns = mu.shape
        height, width = rows // self._rows, columns // self._columns
        cut = mu[:, : height * self._rows, : width * self._columns]
        blocks: Array = cut.reshape(n, height, self._rows, width, self._columns).mean(axis=(2, 4), dtype=np.float32)
        return blocks
