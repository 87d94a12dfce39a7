"""What has to be asked of the network to restore a volume, and what its answers make; no word of how it is asked.

`restoration` is a generator: it yields lists of batches and is sent the answers, so that threads and asyncio drive the
very same procedure.
"""

from collections import Counter
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mira.client.batches import LARGEST_BATCH, LARGEST_REQUEST, Answer, Batch, Floats
from mira.errors import ConfigurationError, DataRejected, ServingFailed
from mira.neighbours import with_neighbours
from mira.tasks import Modality
from mira.tiles import Tile, join, tiles

SERVED_SIDE = 32  # the smallest that the network takes; smaller slices are padded and cropped again
SMALLEST_SIDE = 16
LARGEST_SIDE = (
    1024  # rows or columns; a larger slice travels as tiles, since a server on a GPU may take no larger image
)
TILE_SIDE = LARGEST_SIDE
TRIES = 3  # of a whole volume while the served version changes
# what the network restores, in native units (MR: in units of mr_scale); what lies beyond passes through untouched
TRAINED_RANGE = {Modality.CT: (-1433.0, 3071.0), Modality.PET: (-1.0, 30.0), Modality.MR: (-0.05, 2.0)}
BEYOND_RANGE = 0.01  # share of voxels
UNSURE = 0.6  # probability of the likeliest modality

Steps = Generator[list[Batch], list[Answer], "Restored"]


@dataclass(frozen=True)
class Restored:
    """A restored volume and what the network saw in it.

    Attributes:
        voxels: float32 [slices, rows, columns], in the unit of the input.
        modality_probability: float32 [slices, 3], the network's own estimate, in the order of `Modality`.
        degradation: float32 [slices], its estimate of how degraded each slice was, 0 to 1.
        instruction: float32 [D], the instruction that all slices shared; the mean one where they did not share.
        model: name of the network.
        version: its version, "" when it has none.
        warnings: what a user should know, in words free of patient data.
        predicted_error: float32 [slices, rows, columns], the error of each voxel that the network expects, as one
            standard deviation in the unit of the input; None unless it was asked for.
    """

    voxels: Floats
    modality_probability: Floats
    degradation: Floats
    instruction: Floats
    model: str
    version: str
    warnings: list[str]
    predicted_error: Floats | None = None


class Plan:
    """The batches of one volume.

    Args:
        volume: float32 [slices, rows, columns].
        modality: its modality.
        scale: its robust intensity scale; 1 for CT and PET.
        tile_side: side of the tiles of slices that are too large for one request.
        want_error: whether the batches, probes aside, ask for the expected error.
        slices: how many neighbouring slices the network sees; probes, which it only looks at, are slices alone.
    """

    def __init__(
        self,
        volume: Floats,
        modality: Modality,
        scale: float,
        tile_side: int = TILE_SIDE,
        want_error: bool = False,
        slices: int = 1,
    ) -> None:
        self.shape, self._want_error, self._slices = volume.shape, want_error, slices
        self._volume, self._modality, self._scale = padded(volume), modality.number, scale
        rows, columns = self._volume.shape[1:]
        whole = Tile(0, rows, 0, columns)
        self.tiles = [whole] if max(rows, columns) <= LARGEST_SIDE else tiles(rows, columns, tile_side)

    def batches(self, instruction: Floats | None) -> list[Batch]:
        """All batches: tile by tile, slices in order."""
        return [
            replace(
                self._batch(range(start, min(start + step, len(self._volume))), tile, instruction, self._slices),
                want_error=self._want_error,
            )
            for tile in self.tiles
            for step in (batch_size(tile.bottom - tile.top, tile.right - tile.left),)
            for start in range(0, len(self._volume), step)
        ]

    def probes(self) -> list[Batch]:
        """Batches whose estimated instructions make the shared one: up to eight slices, or tiles of slices.

        They ask for no image, so that a server runs its guidance module alone.

        Tiles are probed at full resolution, since noise and blur, which the network looks for, would be gone from a
        scaled-down slice; those with the most structure are taken, since a tile of air says nothing.
        """
        chosen = probe_slices(len(self._volume))
        if len(self.tiles) == 1:
            step = batch_size(*self._volume.shape[1:])
            return [self._probe(chosen[start : start + step], self.tiles[0]) for start in range(0, len(chosen), step)]
        places = [(int(index), tile) for index in chosen for tile in self.tiles]
        spread = [float(self._volume[(index, *tile.window)].std()) for index, tile in places]
        best = np.argsort(spread)[::-1][:LARGEST_BATCH]
        return [self._probe([places[place][0]], places[place][1]) for place in sorted(best)]

    def _probe(self, indices: list[int] | NDArray[np.intp], tile: Tile) -> Batch:
        return replace(self._batch(indices, tile, None, 1), only_estimates=True)

    def _batch(
        self, indices: range | list[int] | NDArray[np.intp], tile: Tile, instruction: Floats | None, slices: int
    ) -> Batch:
        image = with_neighbours(self._volume[(slice(None), *tile.window)], indices, slices)
        weight = 0.0 if instruction is None else 1.0
        return Batch(image, self._modality, self._scale, instruction, weight)

    def joined(self, answers: list[Answer]) -> tuple[Floats, Floats, Floats, Floats]:
        """Voxels, modality probabilities, degradations and instructions [slices, ...] of the answers to `batches`."""
        found = self._by_tile(answers)
        estimates = [
            np.mean([np.concatenate([getattr(answer, name) for answer in part]) for part in found], axis=0)
            for name in ("modality_probability", "degradation", "instruction")
        ]
        probability, degradation, instruction = (estimate.astype(np.float32) for estimate in estimates)
        return self._image(answers, "restored"), probability, degradation, instruction

    def predicted_error(self, answers: list[Answer]) -> Floats | None:
        """Expected errors [slices, rows, columns] of the answers to `batches`, where they were asked for."""
        return self._image(answers, "predicted_error") if self._want_error else None

    def _by_tile(self, answers: list[Answer]) -> list[list[Answer]]:
        """The answers to `batches`, those of one tile together."""
        found: list[list[Answer]] = [[]]
        for answer in answers:
            if sum(len(one.restored) for one in found[-1]) == self.shape[0]:
                found.append([])
            found[-1].append(answer)
        return found

    def _image(self, answers: list[Answer], name: str) -> Floats:
        """One image of the answers to `batches`, its tiles joined and its padding cut off.

        Raises:
            ServingFailed: for NaN or infinite values, which a network may give in a reduced precision.
        """
        found = self._by_tile(answers)
        per_tile = [np.concatenate([getattr(answer, name)[:, 0] for answer in part]) for part in found]
        (_, rows, columns), (height, width) = self.shape, self._volume.shape[1:]
        image = per_tile[0] if len(found) == 1 else join(zip(self.tiles, per_tile, strict=True), height, width)
        if not np.isfinite(image).all():
            raise ServingFailed(
                "The network answered with NaN or infinite values, which are no image. Look at the version that serves "
                "and its precision: mira status"
            )
        return np.ascontiguousarray(image[:, :rows, :columns])


def restoration(
    volume: Floats,
    modality: Modality,
    scale: float,
    instruction: Floats | None,
    share: bool,
    model: str,
    tile_side: int = TILE_SIDE,
    want_error: bool = False,
    slices: int = 1,
) -> Steps:
    """Restore a volume: probe it, ask for all of it with the shared instruction, and again if the version changed.

    An instruction means something to the version that gave it and to no other; so all answers, those to the probes
    included, must come of one version.

    Args:
        volume: float32 [slices, rows, columns], checked.
        modality: its modality.
        scale: its robust intensity scale.
        instruction: a given instruction [D], or None.
        share: whether all slices use one instruction; tiles of a slice always do.
        model: name of the network, for the result.
        tile_side: side of tiles.
        want_error: whether to ask for the expected error.
        slices: how many neighbouring slices the network sees.

    Raises:
        ServingFailed: when the served version changed again and again.
    """
    plan = Plan(volume, modality, scale, tile_side, want_error, slices)
    for _ in range(TRIES):
        used, versions = instruction, set[str]()
        if used is None and (len(plan.tiles) > 1 or (share and len(volume) > 1)):
            probes = yield plan.probes()
            used = np.concatenate([answer.instruction for answer in probes]).mean(axis=0)
            versions |= {answer.version for answer in probes}
        answers = yield plan.batches(used)
        versions |= {answer.version for answer in answers}
        if len(versions) == 1:
            break
    else:
        raise ServingFailed(
            f"The version of {model} changed while the volume was restored (versions {', '.join(sorted(versions))}), "
            f"{TRIES} times. Ask for one version, or restore again later."
        )
    voxels, probability, degradation, own = plan.joined(answers)
    warnings = [*disagreement(probability, modality), *out_of_range(volume, modality, scale)]
    final = own.mean(axis=0) if used is None else used
    error = plan.predicted_error(answers)
    return Restored(voxels, probability, degradation, final, model, versions.pop(), warnings, error)


def check_volume(volume: Floats) -> None:
    """Raise DataRejected unless a volume can be restored faithfully."""
    if volume.ndim != 3 or 0 in volume.shape:
        raise DataRejected(f"A volume has the shape [slices, rows, columns], but this one has {list(volume.shape)}.")
    if min(volume.shape[1:]) < SMALLEST_SIDE:
        raise DataRejected(
            f"Slices of {volume.shape[1]} by {volume.shape[2]} pixels are too small; at least "
            f"{SMALLEST_SIDE} by {SMALLEST_SIDE} are needed."
        )
    if not np.isfinite(volume).all():
        raise DataRejected("The volume holds NaN or infinite voxels; replace them before restoring.")


def as_modality(value: Modality | str) -> Modality:
    """The modality of a word.

    Raises:
        ConfigurationError: for an unknown one.
    """
    try:
        return Modality.from_dicom(str(value).upper())
    except ValueError as error:
        raise ConfigurationError(f"Modality {value!r} is not known; give CT, PET or MR.") from error


def intensity_scale(volume: Floats, modality: Modality, given: float | None) -> float:
    """The scale to send: 1 for CT and PET, the given or the estimated one for MR."""
    if modality is not Modality.MR:
        return 1.0
    from mira.dicom.units import mr_scale  # brings pydicom, which arrays of other modalities do not need

    scale = mr_scale(volume) if given is None else float(given)
    if not (np.isfinite(scale) and scale > 0):
        raise DataRejected("mr_scale must be a positive number: the robust maximum of the MR volume.")
    return scale


def padded(volume: Floats) -> Floats:
    """Slices grown to the smallest size that the network takes, by repeating their last row and column."""
    missing = [max(0, SERVED_SIDE - side) for side in volume.shape[1:]]
    return np.pad(volume, ((0, 0), (0, missing[0]), (0, missing[1])), mode="edge") if any(missing) else volume


def probe_slices(count: int) -> NDArray[np.intp]:
    """Indices of the slices that decide the shared instruction: up to eight, spread over the inner 80 %."""
    edge = count // 10
    return np.unique(np.linspace(edge, count - 1 - edge, min(LARGEST_BATCH, count)).round().astype(np.intp))


def batch_size(rows: int, columns: int) -> int:
    """Slices in one request: eight, fewer when they are very large."""
    return int(np.clip(LARGEST_REQUEST // (rows * columns), 1, LARGEST_BATCH))


def disagreement(probability: Floats, modality: Modality) -> list[str]:
    """Warnings where the network takes the slices for another modality, or for none that it knows."""
    found, kinds, likeliest = [], list(Modality), probability.max(axis=1)
    sure = likeliest >= UNSURE
    wrong = Counter(kinds[index] for index in probability.argmax(axis=1)[sure] if index != modality.number)
    if wrong:
        other, count = wrong.most_common(1)[0]
        found.append(
            f"modality-disagreement: declared {modality}, but {sum(wrong.values())} of {len(sure)} slices look to the "
            f"network like another modality ({count} like {other})"
        )
    if (~sure).sum() > len(sure) / 2:
        found.append(
            f"out-of-distribution: the network cannot tell the modality of {int((~sure).sum())} of {len(sure)} slices; "
            "they look like nothing that it was trained on"
        )
    return found


def out_of_range(volume: Floats, modality: Modality, scale: float) -> list[str]:
    """A warning where many values lie outside what the network was trained on, as in a wrong unit."""
    low, high = (limit * scale for limit in TRAINED_RANGE[modality])
    share = np.count_nonzero((volume < low) | (volume > high)) / volume.size
    if share <= BEYOND_RANGE:
        return []
    return [
        f"out-of-distribution: {share:.0%} of the values lie outside {low:g} to {high:g}, what the network restores; "
        "they pass through as they are. Look at the unit."
    ]
