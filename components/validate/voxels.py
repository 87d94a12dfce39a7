"""Facts of a case that its voxels tell: noise, and whether the values lie where the unit puts them."""

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mira.cases import CaseRecord
from mira.tasks import Modality, Unit

SAMPLE = 400_000  # voxels, evenly through the volume, that the histograms take
PADDING_HU = -1500  # below: padding outside the field of view, such as -2000, -2048 and -3024
ALWAYS = (
    "readable", "geometry_matches", "rotation_valid", "voxels_finite", "not_blank", "hu_range_plausible",
    "suv_nonnegative", "suv_range_plausible",
)  # fmt: skip
"""Facts that are false, not unknown, for a volume that cannot be read."""


def noise_level(voxels: NDArray[np.float32], above: float = -np.inf) -> float:
    """Noise standard deviation of slices by the median absolute response to a second-difference mask.

    The mask [[1,-2,1],[-2,4,-2],[1,-2,1]] removes constant and linear structure and has norm 6 for white noise
    (Immerkaer, Computer Vision and Image Understanding 64:300, 1996); the median makes it robust to edges. Noise that
    the reconstruction has smoothed reads lower than its standard deviation.

    Args:
        voxels: [slices, rows, columns] in any unit.
        above: only voxels with a larger value count, to leave out the air around the body.

    Returns:
        The level in the same unit; 0 for slices under 3 x 3.
    """
    if min(voxels.shape[1:]) < 3:
        return 0.0
    rows = voxels[:, :-2] - 2 * voxels[:, 1:-1] + voxels[:, 2:]
    response = rows[..., :-2] - 2 * rows[..., 1:-1] + rows[..., 2:]
    inside = np.abs(
        response[(response != 0) & (voxels[:, 1:-1, 1:-1] > above)]
    )  # padding and clipped air respond with exactly zero
    return float(1.4826 * np.median(inside) / 6) if inside.size else 0.0


def voxel_facts(voxels: NDArray[np.float32] | None, record: CaseRecord) -> dict[str, Any]:
    """Facts of one volume.

    Args:
        voxels: [slices, rows, columns] in the record's unit; None when they cannot be read.
        record: the case.
    """
    if voxels is None or voxels.size == 0:
        return dict.fromkeys(ALWAYS, False)
    low, high = float(voxels.min()), float(voxels.max())
    finite = bool(np.isfinite(low) and np.isfinite(high))
    facts: dict[str, Any] = {
        "readable": True,
        "voxels_finite": finite,
        "not_blank": finite and high > low,
        "minimum": low if finite else None,
        "maximum": high if finite else None,
        "hu_range_plausible": False,
        "suv_nonnegative": False,
        "suv_range_plausible": False,
        "voxels_sha256": hashlib.sha256(np.ascontiguousarray(voxels).data).hexdigest(),
    }
    if not finite:
        return facts
    middle = len(voxels) // 2
    sample = voxels.reshape(-1)[:: max(1, voxels.size // SAMPLE)]
    if record.modality is Modality.CT:
        facts |= _ct(sample, record)
    elif record.modality is Modality.PET:
        facts |= _pet(sample, low)
    else:
        facts |= _mr(sample, high, record)
    facts["noise"] = noise_level(voxels[max(0, middle - 4) : middle + 4], _body_from(sample, record))
    signal = facts.get("suv_body_mean") if record.modality is Modality.PET else record.mr_scale
    facts["noise_share"] = facts["noise"] / signal if signal else None
    return facts


def _body_from(sample: NDArray[np.float32], record: CaseRecord) -> float:
    """The value above which a voxel is taken to be of the body."""
    if record.modality is Modality.CT:
        return -500.0
    return 0.1 * float(record.mr_scale or 0 if record.modality is Modality.MR else np.quantile(sample, 0.99))


def _ct(sample: NDArray[np.float32], record: CaseRecord) -> dict[str, Any]:
    real = sample[sample > PADDING_HU]
    plausible = record.unit is Unit.HU and _hu_plausible(real)
    air, rest = real[real < -500], real[(real >= -500) & (real < 2000)]
    return {
        "hu_range_plausible": plausible,
        "air_peak_hu": _peak(air, 10) if air.size >= 0.005 * max(1, real.size) else None,
        "tissue_peak_hu": _peak(rest, 5) if rest.size >= 100 else None,
    }


def _hu_plausible(real: NDArray[np.float32]) -> bool:
    """Whether soft tissue, and air or fat, lie where they must in HU.

    A CT that lost its rescale intercept has its air near 0 and its tissue near 1000, and nothing below -30.
    """
    if real.size < 100:
        return False
    below_water = float(np.mean(real < -30))
    tissue = float(np.mean((real > -200) & (real < 300)))
    return below_water >= 0.005 and tissue >= 0.02 and float(np.quantile(real, 0.99)) < 4000


def _peak(values: NDArray[np.float32], width: float) -> float:
    """Centre of the fullest bin of a histogram."""
    counts, edges = np.histogram(values, np.arange(values.min() - width / 2, values.max() + width, width))
    fullest = int(np.argmax(counts))
    return float((edges[fullest] + edges[fullest + 1]) / 2)


def _pet(sample: NDArray[np.float32], low: float) -> dict[str, Any]:
    peak = float(np.quantile(sample, 0.999))
    body = sample[
        sample > 0.1 * np.quantile(sample, 0.99)
    ]  # as `_body_from`; follows the scale, so a wrong one shows in the mean
    return {
        "suv_nonnegative": low >= -0.1,
        "suv_range_plausible": 0.5 <= peak <= 200,
        "suv_peak": peak,
        "suv_body_mean": float(body.mean()) if body.size and peak > 0 else None,
    }


def _mr(sample: NDArray[np.float32], high: float, record: CaseRecord) -> dict[str, Any]:
    return {
        "saturated_share": float(np.mean(sample >= high)),
        "peak_over_scale": high / record.mr_scale if record.mr_scale and record.mr_scale > 0 else None,
    }
