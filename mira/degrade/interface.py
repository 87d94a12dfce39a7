"""One way to degrade a volume for a task, and the truth of what was done.

`degrade` gives the whole volume. `plan` gives the same slices batch by batch: where the voxels are memory-mapped, no
more than a batch and the simulator's own tables are in memory, however long the scan.

Same input, same numbers: each slice's noise depends on seed and index alone, batches have a fixed size, and no
transform runs in threads of its own.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mira.cases import CaseRecord
from mira.degrade import ct, mr, pet, scanner
from mira.degrade.calibration import calibrate
from mira.degrade.options import OptionValue, override
from mira.degrade.pet_attenuation import PairedCt
from mira.errors import ConfigurationError, DataRejected
from mira.pairs import Physics
from mira.progress import track
from mira.tasks import TASKS, Task
from mira.volume import Volume

# The level whose severity is 1: 5 % dose, 5 % counts, 8 times lower resolution.
WORST_LEVEL: dict[Task, float] = {Task.CT_DENOISING: 0.05, Task.PET_SYNTHESIS: 0.05, Task.MRI_SUPER_RESOLUTION: 8.0}
VERSIONS: dict[Task, str] = {
    Task.CT_DENOISING: ct.VERSION,
    Task.PET_SYNTHESIS: pet.VERSION,
    Task.MRI_SUPER_RESOLUTION: mr.VERSION,
}


def severity(task: Task, level: float) -> float:
    """A level on the common scale of all tasks: |log level| over |log WORST_LEVEL|, from 0 (untouched) to 1.

    Equal steps of severity are equal factors of dose, counts or resolution. Levels beyond the worst one give 1.

    Raises:
        ConfigurationError: for a level that is no degradation of the task.
    """
    low_is_worse = WORST_LEVEL[task] < 1
    if not (math.isfinite(level) and (0 < level < 1 if low_is_worse else 1 < level <= 16)):
        allowed = "above 0 and below 1" if low_is_worse else "above 1 and up to 16"
        raise ConfigurationError(f"{task}: the {TASKS[task].level_name} must be {allowed}, but is {level:g}.")
    return min(1.0, abs(math.log(level)) / abs(math.log(WORST_LEVEL[task])))


def why_not(volume: Volume, task: Task, record: CaseRecord | None) -> str | None:
    """Why a volume's physics is not known well enough to degrade it for a task; None when it is."""
    spec = TASKS[task]
    if record is not None:
        if record.modality is not spec.modality:
            return f"{task} needs {spec.modality}, but the case is {record.modality}"
        if record.unit is not spec.unit:
            return f"{task} needs voxels in {spec.unit}, but the case is in {record.unit}; the scale is not known"
        if task not in record.tasks:
            return record.task_refusals.get(task, f"the case was not accepted for {task} at ingest")
    voxels = volume.voxels
    if min(voxels.shape[1:]) < 16:
        return f"slices of {voxels.shape[1]}x{voxels.shape[2]} are too small; at least 16x16 pixels are needed"
    _, row, column = volume.spacing
    if not math.isclose(row, column, rel_tol=0.02) and task is not Task.MRI_SUPER_RESOLUTION:
        return f"pixels of {row:.3f} x {column:.3f} mm are not square, which the projector needs"
    middle = np.asarray(voxels[len(voxels) // 2])
    if not np.isfinite(middle).all():
        return "voxels are not finite numbers"
    low, high = float(middle.min()), float(middle.max())
    if task is Task.CT_DENOISING and not (low < -200 or high > 200 or record is not None):
        return "without a record, values do not look like HU"
    if task is Task.PET_SYNTHESIS and high > 1000:
        return f"values up to {high:.0f} cannot be SUVbw"
    return None


@dataclass(frozen=True)
class Plan:
    """A degradation that is ready to run.

    Attributes:
        physics: the truth of it, known before the first slice is made.
        shape: (slices, rows, columns) of the result.
        affine: geometry of the result, as `Volume.affine`.
        batches: makes the degraded slices, float32 [n, rows, columns] at a time, in order; can be called again.
    """

    physics: Physics
    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    batches: Callable[[], Iterator[NDArray[np.float32]]]


def plan(
    volume: Volume,
    task: Task,
    level: float,
    seed: int,
    record: CaseRecord | None = None,
    options: Mapping[str, OptionValue] | None = None,
    paired_ct: PairedCt | None = None,
    workers: int | None = None,
) -> Plan:
    """Choose the physics of a degradation, without making it yet.

    Args:
        volume: the routine scan, in the task's unit (HU, SUVbw, MR a.u.); its voxels may be memory-mapped.
        task: the task whose degradation is wanted.
        level: dose fraction, count fraction or resolution factor.
        seed: seed of the noise, 0 or above.
        record: the case, whose protocol sets flux and counts; defaults that each simulator documents without it.
        options: parameters of the simulator in place of those it would choose, see `mira.degrade.options`.
        paired_ct: for PET, the CT of the same examination, which attenuates better than an outline filled with water.
        workers: threads of the CT simulator, up to four of this process' cores by default; no influence on the result.

    Raises:
        ConfigurationError: for a level that is no degradation, or options that do not exist.
        DataRejected: when the volume's physics is not known well enough, with the reason.
    """
    strength = severity(task, level)
    reason = why_not(volume, task, record)
    if reason is not None:
        raise DataRejected(f"Cannot degrade this volume: {reason}.")
    voxels, spacing, given = volume.voxels, volume.spacing, dict(options or {})
    shape, affine = voxels.shape[1:], volume.affine
    parameters: Any
    batches: Callable[[], Iterator[NDArray[np.float32]]]
    if task is Task.CT_DENOISING:
        parameters = _ct_parameters(volume, level, record, given)
        truth = parameters.as_record()
        batches = partial(ct.lower_dose, voxels, spacing[1], parameters, seed, workers=workers)
    elif task is Task.PET_SYNTHESIS:
        parameters, attenuation = pet.prepare(volume, level, record, paired_ct, given)
        truth = parameters.as_record()
        batches = partial(
            pet.lower_counts, voxels, spacing[1], parameters, seed, slice_mm=spacing[0], attenuation=attenuation
        )
    else:
        parameters = mr.parameters_for(level, voxels, record, given)
        batches = partial(mr.lower_resolution, voxels, parameters, seed)
        reason = parameters.why_not(shape)
        if reason is not None:
            raise DataRejected(f"Cannot degrade this volume: {reason}.")
        strength, truth = severity(task, parameters.severity_factor()), parameters.as_record(shape)
        shape, affine = parameters.out_shape(shape), _resized(affine, shape, parameters.out_shape(shape))
    physics = Physics(model=VERSIONS[task], level=level, severity=round(strength, 6), seed=seed, parameters=truth)
    return Plan(physics, (len(voxels), shape[0], shape[1]), affine, batches)


def degrade(
    volume: Volume,
    task: Task,
    level: float,
    seed: int,
    record: CaseRecord | None = None,
    progress: bool = False,
    options: Mapping[str, OptionValue] | None = None,
    paired_ct: PairedCt | None = None,
    workers: int | None = None,
) -> tuple[Volume, Physics]:
    """Degrade a volume: low-dose CT, low-count PET or low-resolution MR.

    A pure function of its arguments: the same seed gives the same noise, slice by slice. Arguments and errors are those
    of `plan`; `progress` shows a progress bar over the batches.

    Returns:
        The degraded volume with the same shape and geometry (a smaller matrix over the same field of view for cropped
        MR), and the physics that made it.
    """
    made = plan(volume, task, level, seed, record, options, paired_ct, workers)
    result = np.empty(made.shape, dtype=np.float32)
    done = 0
    for batch in track(made.batches(), str(task), unit="batch") if progress else made.batches():
        result[done : done + len(batch)] = batch
        done += len(batch)
    return Volume(result, made.affine), made.physics


def _ct_parameters(
    volume: Volume, level: float, record: CaseRecord | None, given: dict[str, OptionValue]
) -> ct.CtParameters:
    """Parameters of a CT: from the record, then from a calibrated scanner or the scan's own noise, then as given."""
    voxels, spacing = volume.voxels, volume.spacing
    slice_mm = record.spacing_mm[0] if record is not None else spacing[0]
    step = given.pop("view_step", 1)
    if not isinstance(step, int) or isinstance(step, bool) or not 1 <= step <= 64:
        raise ConfigurationError("view_step must be a whole number from 1 to 64.")
    parameters = ct.parameters_for(
        level, voxels.shape[1:], spacing[1], slice_mm, record, distance_mm=spacing[0], view_step=step
    )
    device = scanner.scanner_of(given)
    others = {"calibrate", scanner.EXPOSURE, *scanner.NAMES}
    own = {name: value for name, value in given.items() if name not in others}
    chosen = override(parameters, own, fixed=("dose_fraction", "calibrated"), extra=("view_step", *others))
    if chosen.views != parameters.views and "photons" not in own:  # the same photons, shared out to other views
        chosen = replace(chosen, photons=chosen.photons * parameters.views / chosen.views)
    if device is not None:
        thickness = (record.protocol.slice_thickness_mm if record is not None else None) or slice_mm
        chosen = device.apply(chosen, spacing[1], thickness, scanner.exposure_of(record, given, device))
    elif _yes(given, "calibrate", default="photons" not in own):
        chosen = calibrate(voxels, spacing[1], chosen)
    return override(chosen, own, fixed=())


def _yes(given: Mapping[str, OptionValue], name: str, default: bool) -> bool:
    """A true or false option."""
    value = given.get(name, default)
    if not isinstance(value, bool):
        raise ConfigurationError(f"{name} must be true or false.")
    return value


def _resized(affine: NDArray[np.float64], before: tuple[int, int], after: tuple[int, int]) -> NDArray[np.float64]:
    """Geometry of a matrix of another size over the same field of view; its sample n // 2 stays where it was."""
    if before == after:
        return affine
    result = affine.copy()
    for axis, old, new in ((0, before[1], after[1]), (1, before[0], after[0])):
        result[:3, axis] = affine[:3, axis] * old / new
        result[:3, 3] += affine[:3, axis] * (old // 2) - result[:3, axis] * (new // 2)
    return result
