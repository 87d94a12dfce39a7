"""Calibration of the error map: one factor per modality, from validation slices that no weight was fitted to.

A network's own idea of its error is too small on patients that it has not seen (Kuleshov et al., ICML 2018; Levi et
al., Sensors 2022). Multiplying it by one factor makes the mean of (error / predicted deviation)^2 equal to one there.
Only the patient counts: the air around him is easy, and would hide a wrong figure where it matters.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from mira.tasks import TASKS, Modality
from model.data import FOREGROUND
from model.network import GuidedNetwork
from model.restorer import Restorer
from model.validation import Sample

FEWEST_PIXELS = 64
OUTLIERS = 0.999  # quantile of the squares of a slice at which larger ones are cut off: one spike decides nothing


def mean_square(error: NDArray[np.float32], deviation: NDArray[np.float32], inside: NDArray[np.bool_]) -> float | None:
    """Mean of (error / deviation)^2 over the pixels `inside` of a slice; None where there are too few of them."""
    if np.count_nonzero(inside) < FEWEST_PIXELS:
        return None
    squares = np.square(error[inside].astype(np.float64) / deviation[inside])
    return float(np.minimum(squares, np.quantile(squares, OUTLIERS)).mean())


def calibrate(network: GuidedNetwork, samples: Sequence[Sample]) -> dict[Modality, float]:
    """Set the factors of a network's error head.

    Args:
        network: the trained network; one without an error head stays as it is.
        samples: validation slices.

    Returns:
        The factors of the modalities that have validation slices: standard deviation over the expected absolute error.
        The others keep that of a Laplace distribution.
    """
    if network.error_head is None:
        return {}
    restorer = Restorer(network)
    found: dict[Modality, list[float]] = {}
    for sample in samples:
        modality = TASKS[sample.task].modality
        restored = sample.restored(restorer)
        assert restored.predicted_error is not None
        inside = sample.reference > FOREGROUND[sample.task] * sample.mr_scale
        square = mean_square(restored.voxels[0] - sample.reference, restored.predicted_error[0], inside)
        if square is not None and square > 0:
            found.setdefault(modality, []).append(square)
    scale = network.error_head.scale
    with torch.no_grad():
        for modality, squares in found.items():
            scale[modality.number] *= float(np.sqrt(np.mean(squares)))
    return {modality: float(scale[modality.number]) for modality in Modality if modality in found}
