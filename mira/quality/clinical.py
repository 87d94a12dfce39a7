"""Measures that a clinician trusts more than PSNR: bias of quantities, noise, and whether lesions kept their contrast.

All work on volumes [slices, rows, columns] in native units and need no profile; regions come from the reference.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mira.tasks import Modality

SOFT_TISSUE_HU = (-20.0, 120.0)
PATCH = 8


@dataclass(frozen=True)
class Bias:
    """Difference of a quantity between test and reference.

    Attributes:
        name: `hu_mean`, `suv_mean`, `suv_max`, `activity` or `mr_mean`.
        unit: `HU`, or `%` of the reference's value.
        value: test minus reference.
        reference: the reference's own value, in native units.
    """

    name: str
    unit: str
    value: float
    reference: float


@dataclass(frozen=True)
class LesionContrast:
    """Contrast of one structure against its surroundings.

    Attributes:
        label: label of the structure.
        voxels: its size.
        reference: mean inside minus mean of the shell around it, in native units, in the reference.
        test: the same in the test volume.
        recovery: test / reference; 1 means kept. None where the reference's contrast is lost in its own noise.
        mean: mean inside the structure, in native units, in the reference.
        mean_change: test minus reference of that mean.
    """

    label: int
    voxels: int
    reference: float
    test: float
    recovery: float | None
    mean: float
    mean_change: float


def foreground(reference: NDArray[np.float32], modality: Modality) -> NDArray[np.bool_]:
    """Voxels whose mean is compared: CT soft tissue, PET above 0.5 SUV, MR above a tenth of its bright tissue."""
    if modality is Modality.CT:
        return (reference > SOFT_TISSUE_HU[0]) & (reference < SOFT_TISSUE_HU[1])
    if modality is Modality.PET:
        return reference > 0.5
    positive = reference[reference > 0]
    threshold = 0.1 * float(np.percentile(positive, 99.5)) if positive.size else np.inf
    return reference > threshold


def uniform_region(reference: NDArray[np.float32], modality: Modality, share: float = 0.2) -> NDArray[np.bool_]:
    """The calmest part of the foreground: 8x8 pixel patches wholly inside it, with the lowest standard deviations.

    Args:
        reference: volume in native units.
        modality: its modality.
        share: share of the inside patches that is kept, at least one.

    Returns:
        Mask of the volume's shape; empty when no patch lies inside the foreground.
    """
    n, rows, columns = reference.shape
    height, width = rows // PATCH, columns // PATCH
    result = np.zeros(reference.shape, dtype=bool)
    if height == 0 or width == 0:
        return result

    def patches(values: NDArray[np.float32]) -> NDArray[np.float32]:
        cut = values[:, : height * PATCH, : width * PATCH]
        return cut.reshape(n, height, PATCH, width, PATCH).swapaxes(2, 3).reshape(n, height, width, -1)

    if modality is Modality.CT:  # patch means, since noise pushes single voxels out of the tissue's range
        means = patches(reference).mean(axis=-1)
        inside = (means > SOFT_TISSUE_HU[0]) & (means < SOFT_TISSUE_HU[1])
    else:
        inside = patches(foreground(reference, modality).astype(np.float32)).all(axis=-1)
    if not inside.any():
        return result
    spread = np.where(inside, patches(reference).std(axis=-1, dtype=np.float64), np.inf)
    kept = max(1, round(share * int(inside.sum())))
    limit = np.partition(spread[inside], kept - 1)[kept - 1]
    chosen = np.repeat(np.repeat(spread <= limit, PATCH, axis=1), PATCH, axis=2)
    result[:, : height * PATCH, : width * PATCH] = chosen
    return result


def mean_bias(
    reference: NDArray[np.float32], test: NDArray[np.float32], modality: Modality, mask: NDArray[np.bool_] | None = None
) -> list[Bias]:
    """Bias of the clinical quantities: mean HU of uniform soft tissue, SUVmean and SUVmax, or the mean of MR tissue.

    Regions are taken from the reference. For CT that is the uniform soft tissue: a region picked by the value of single
    noisy voxels would regress to the mean by itself. So does the tissue of PET, which is picked by its value; the sum
    over all voxels, its activity, does not. SUVmax is the hottest voxel of each volume.

    Args:
        reference: volume in native units.
        test: volume in native units.
        modality: its modality.
        mask: region to use instead, e.g. a contoured organ.

    Returns:
        The biases; empty where there is no such region.
    """
    if mask is not None:
        region = mask
    elif modality is Modality.CT:
        region = uniform_region(reference, modality)
    else:
        region = foreground(reference, modality)
    if not region.any():
        return []
    before = float(reference[region].mean(dtype=np.float64))
    after = float(test[region].mean(dtype=np.float64))
    if modality is Modality.CT:
        return [Bias("hu_mean", "HU", after - before, before)]
    result = []
    if before != 0:
        name = "suv_mean" if modality is Modality.PET else "mr_mean"
        result.append(Bias(name, "%", 100 * (after - before) / before, before))
    if modality is Modality.PET:
        top = float(reference[region].max())
        hottest = float(test[region].max()) if mask is not None else float(test.max())
        result.append(Bias("suv_max", "%", 100 * (hottest - top) / top, top))
        every, now = (float(volume.mean(dtype=np.float64)) for volume in (reference, test))
        if mask is None and every > 0:
            result.append(Bias("activity", "%", 100 * (now - every) / every, every))
    return result


def noise_std(volume: NDArray[np.float32], region: NDArray[np.bool_]) -> float | None:
    """Mean over the 8x8 patches of a uniform region of their standard deviation; None without such a patch.

    Args:
        volume: volume in native units.
        region: what `uniform_region` returned for the reference.
    """
    n, rows, columns = volume.shape
    height, width = rows // PATCH, columns // PATCH
    if height == 0 or width == 0:
        return None
    cut = volume[:, : height * PATCH, : width * PATCH].reshape(n, height, PATCH, width, PATCH)
    inside = region[:, : height * PATCH : PATCH, : width * PATCH : PATCH]
    if not inside.any():
        return None
    return float(cut.std(axis=(2, 4), dtype=np.float64)[inside].mean())


def lesion_contrasts(
    reference: NDArray[np.float32],
    test: NDArray[np.float32],
    structures: NDArray[np.integer] | NDArray[np.float32],
    shell_pixels: int = 3,
) -> list[LesionContrast]:
    """Contrast of each labelled structure against the shell around it, in reference and test.

    The shell is what an in-plane dilation by `shell_pixels` adds, one pixel away from the structure, other structures
    left out.

    Args:
        reference: volume in native units.
        test: volume in native units.
        structures: labels on the same grid; 0 is background.
        shell_pixels: thickness of the shell.
    """
    from scipy import ndimage  # heavy

    labels = np.rint(structures).astype(np.int32)
    cross = ndimage.generate_binary_structure(2, 1)[None]
    result = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue
        margin = shell_pixels + 1
        grown = tuple(
            part if axis == 0 else slice(max(0, part.start - margin), part.stop + margin)
            for axis, part in enumerate(box)
        )
        inside = labels[grown] == label
        gap = ndimage.binary_dilation(inside, cross)
        shell = ndimage.binary_dilation(gap, cross, iterations=shell_pixels) & ~gap & (labels[grown] == 0)
        if not shell.any():
            continue
        truth, image = reference[grown], test[grown]
        mean, mean_after = (float(values[inside].mean(dtype=np.float64)) for values in (truth, image))
        before = mean - float(truth[shell].mean(dtype=np.float64))
        after = mean_after - float(image[shell].mean(dtype=np.float64))
        error = float(truth[shell].std(dtype=np.float64)) * (1 / inside.sum() + 1 / shell.sum()) ** 0.5
        visible = abs(before) > max(3 * error, 1e-12)
        recovery = after / before if visible else None
        result.append(LesionContrast(label, int(inside.sum()), before, after, recovery, mean, mean_after - mean))
    return result
