"""Slices with their neighbours as further channels, for networks that see several slices (2.5-D)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def with_neighbours(
    volume: NDArray[np.float32], places: range | Sequence[int] | NDArray[np.intp], slices: int
) -> NDArray[np.float32]:
    """Some slices of a volume, each in the middle of its neighbours; beyond the ends the outermost slice is repeated.

    Args:
        volume: [S, H, W]; it may be a window of a volume, or mapped from a file.
        places: indices of the n slices; those of a range that follow each other are not copied when seen alone.
        slices: how many slices the network sees, an odd number; 1 for the slice alone.

    Returns:
        [n, slices, H, W].
    """
    if slices == 1:
        chosen = slice(places.start, places.stop) if isinstance(places, range) else np.asarray(places, dtype=np.intp)
        return volume[chosen][:, None]
    around = np.arange(slices) - slices // 2
    found: NDArray[np.float32] = volume[(np.asarray(places)[:, None] + around).clip(0, len(volume) - 1)]
    return found
