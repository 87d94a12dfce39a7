"""Measuring one pair with every network: per-slice metrics, clinical figures, indicators."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from components.evaluate.results import INPUT
from mira.client.plan import intensity_scale, probe_slices
from mira.errors import DataRejected
from mira.pairs import PairRecord
from mira.quality.clinical import foreground, lesion_contrasts, mean_bias, noise_std, uniform_region
from mira.quality.metrics import SliceMetrics, measure_slices
from mira.quality.profiles import profile_named
from mira.tasks import Modality
from mira.volume import read_nifti

if TYPE_CHECKING:
    from model.restorer import Restorer

CLINICAL: dict[str, str] = {
    "hu_mean_bias": "HU; mean of uniform soft tissue, test minus reference",
    "suv_mean_bias": "percent of the reference; mean SUV of tissue above 0.5 SUV",
    "activity_bias": "percent of the reference; sum of all SUV of the measured slices, of air and noise too",
    "suv_lesion_bias": "percent of the reference; mean SUV of contoured structures hotter than their surroundings, "
    "mean over structures",
    "suv_max_bias": "percent of the reference; hottest voxel of the measured slices",
    "mr_mean_bias": "percent of the reference; mean of the MR foreground",
    "noise_ratio": "standard deviation in uniform 8 x 8 patches over that of the reference",
    "lesion_recovery": "contrast of contoured structures over that in the reference, mean over structures; 1 is kept",
    "lesion_recovery_worst": "the same for the structure that lost most",
}


@dataclass(frozen=True)
class Slices:
    """The measured slices of a pair.

    Attributes:
        pair: the pair.
        index: their indices in the volume.
        degraded: float32 [S, H, W] in native units.
        reference: the same of the reference.
        volume: float32 [all slices, H, W], the degraded volume, for networks that see a slice's neighbours as well.
        probes: slices of the degraded volume that decide the instruction which all of it shares.
        structures: labels of contoured structures, or None.
        blank: slices of the volume that show nothing and are left out.
        scale: robust scale of the degraded MR volume, as a client estimates it; 1 for CT and PET.
    """

    pair: PairRecord
    index: NDArray[np.intp]
    degraded: NDArray[np.float32]
    reference: NDArray[np.float32]
    volume: NDArray[np.float32]
    probes: NDArray[np.float32]
    structures: NDArray[np.int32] | None
    blank: int
    scale: float = 1.0


@dataclass
class Measured:
    """What was measured on one pair.

    Attributes:
        pair: the pair.
        slices: metrics of each slice, by network (`input` among them) and profile.
        clinical: clinical figures by network.
        modality_probability: float32 [S, 3] of the unified network.
        degradation: float32 [S] of the unified network.
        input_error: root mean square error of the degraded slices in the foreground, in HU, SUV or multiples of the MR
            scale; None without foreground.
        restored: the slices themselves by network, `input` among them.
        predicted_error: float32 [S, H, W] of the unified network, one standard deviation in native units, where it
            has an error map.
    """

    pair: PairRecord
    slices: dict[tuple[str, str], SliceMetrics] = field(default_factory=dict)
    clinical: dict[str, dict[str, float]] = field(default_factory=dict)
    modality_probability: NDArray[np.float32] | None = None
    degradation: NDArray[np.float32] | None = None
    input_error: float | None = None
    restored: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    predicted_error: NDArray[np.float32] | None = None


def choose_slices(
    blank: NDArray[np.bool_], structures: NDArray[np.int32] | None, most: int, with_structures: int
) -> NDArray[np.intp]:
    """Indices of slices at even distances through a volume, and of those with the largest structures.

    Args:
        blank: for each slice of the volume, whether it shows nothing and is left out.
        structures: labels [slices, rows, columns], or None.
        most: slices to take at most; 0 for all.
        with_structures: how many of them are taken for the area of their structures.
    """
    filled = np.flatnonzero(~blank)
    if most == 0 or len(filled) <= most:
        return filled
    special: NDArray[np.intp] = np.empty(0, dtype=np.intp)
    if structures is not None and with_structures:
        area = np.count_nonzero(structures[filled].reshape(len(filled), -1), axis=1)
        largest = np.argsort(-area, kind="stable")[: min(with_structures, most // 2)]
        special = filled[largest[area[largest] > 0]]
    rest = np.setdiff1d(filled, special)
    even = rest[np.linspace(0, len(rest) - 1, most - len(special)).round().astype(np.intp)]
    return np.union1d(even, special)


def blank_slices(reference: NDArray[np.float32], modality: Modality) -> NDArray[np.bool_]:
    """Whether each slice [slices] of a reference shows nothing of the patient: a metric of it would be of debris.

    At the ends of a volume that was turned or resampled, slices lie outside what was imaged. In CT and MR they hold no
    voxel of the `foreground`; in PET, where a slice of low uptake is a slice all the same, nothing above zero.

    Args:
        reference: [slices, rows, columns] in native units.
        modality: its modality.
    """
    shown = reference > 0 if modality is Modality.PET else foreground(reference, modality)
    flat = reference.reshape(len(reference), -1)
    blank: NDArray[np.bool_] = ~shown.any(axis=(1, 2)) | (flat.max(axis=1) == flat.min(axis=1))
    return blank


def load_slices(root: Path, pair: PairRecord, most: int, with_structures: int) -> Slices:
    """Read the slices of a pair that are measured.

    Raises:
        DataRejected: when a volume of the pair is missing or does not fit its partner.
    """
    reference = read_nifti(root / pair.reference).voxels
    degraded = read_nifti(root / pair.degraded).voxels
    if reference.shape != degraded.shape:
        raise DataRejected(f"Pair {pair.pair_id}: shapes {degraded.shape} and {reference.shape} differ. Pair again.")
    labels = None
    if pair.structures is not None:
        labels = np.rint(read_nifti(root / pair.structures).voxels).astype(np.int32)
    blank = blank_slices(reference, pair.modality)
    index = choose_slices(blank, labels, most, with_structures)
    return Slices(
        pair,
        index,
        np.ascontiguousarray(degraded[index]),
        np.ascontiguousarray(reference[index]),
        degraded,
        np.ascontiguousarray(degraded[probe_slices(len(degraded))]),
        None if labels is None else labels[index],
        int(blank.sum()),
        intensity_scale(degraded, pair.modality, None) if len(index) else 1.0,
    )


def measure(
    slices: Slices, networks: "Mapping[str, Restorer]", profiles: Sequence[str], unified: str, batch_size: int
) -> Measured:
    """Restore the slices of a pair by each network and measure all beside the degraded input.

    As when a series is served, all slices of a pair share one instruction, that of the slices which the client would
    ask for, and for MR the scale of the degraded volume; the metrics take that of the reference. (A pair may hold every
    n-th slice of its series; the client asks among all of them.)

    Args:
        slices: what to restore.
        networks: name -> network; only those trained on the task of the pair.
        profiles: metric profiles.
        unified: name of the network whose indicators are kept.
        batch_size: slices at once.
    """
    from model.inference import restore_volume, shared_instruction

    pair = slices.pair
    result = Measured(pair, input_error=_input_error(slices))
    images = {INPUT: slices.degraded}
    for name, network in networks.items():
        instruction = shared_instruction(network, slices.probes, pair.modality, slices.scale)
        restored = restore_volume(
            network, slices.volume, pair.modality, slices.scale, batch_size, instruction, slices.index
        )
        images[name] = restored.voxels
        if name == unified:
            result.modality_probability = restored.modality_probability
            result.degradation = restored.degradation
            result.predicted_error = restored.predicted_error
    region = uniform_region(slices.reference, pair.modality)
    for name, image in images.items():
        result.clinical[name] = clinical_figures(slices, image, region)
        known: dict[str, SliceMetrics] = {}
        for profile in profiles:
            convention = repr(profile_named(profile).convention(pair.modality))
            if convention not in known:  # profiles that agree on a modality are computed once
                known[convention] = measure_slices(
                    slices.reference, image, pair.modality, profile, mr_scale=pair.mr_scale
                )
            result.slices[name, profile] = known[convention]
    result.restored = images
    return result


def _input_error(slices: Slices) -> float | None:
    shown = foreground(slices.reference, slices.pair.modality)
    if not shown.any():
        return None
    error = slices.degraded[shown].astype(np.float64) - slices.reference[shown]
    return float(np.sqrt(np.mean(error * error))) / (slices.pair.mr_scale or 1.0)


def clinical_figures(slices: Slices, image: NDArray[np.float32], region: NDArray[np.bool_]) -> dict[str, float]:
    """The clinical figures that the slices allow; see `CLINICAL`."""
    modality = slices.pair.modality
    figures = {f"{b.name}_bias": b.value for b in mean_bias(slices.reference, image, modality)}
    before, after = noise_std(slices.reference, region), noise_std(image, region)
    if before and after is not None and modality is Modality.CT:  # elsewhere the reference's noise is not uniform
        figures["noise_ratio"] = after / before
    if slices.structures is not None:
        contrasts = lesion_contrasts(slices.reference, image, slices.structures)
        kept = [c.recovery for c in contrasts if c.recovery is not None]
        if kept:
            figures["lesion_recovery"] = float(np.mean(kept))
            figures["lesion_recovery_worst"] = float(np.min(kept))
        hot = [100 * c.mean_change / c.mean for c in contrasts if c.recovery is not None and c.reference > 0 < c.mean]
        if hot and modality is Modality.PET:
            figures["suv_lesion_bias"] = float(np.mean(hot))
    return figures
