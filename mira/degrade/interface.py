"""One way to degrade a volume for a task, and the truth of what was done."""

import math
from typing import Any

import numpy as np

from mira.cases import CaseRecord
from mira.degrade import ct, mr, pet
from mira.degrade.calibration import calibrate
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


def degrade(
    volume: Volume, task: Task, level: float, seed: int, record: CaseRecord | None = None, progress: bool = False
) -> tuple[Volume, Physics]:
    """Degrade a volume: low-dose CT, low-count PET or low-resolution MR.

    A pure function of its arguments: the same seed gives the same noise, slice by slice.

    Args:
        volume: the routine scan, in the task's unit (HU, SUVbw, MR a.u.).
        task: the task whose degradation is wanted.
        level: dose fraction, count fraction or resolution factor.
        seed: seed of the noise, 0 or above.
        record: the case, whose protocol sets flux and counts; defaults that each simulator documents without it.
        progress: whether to show a progress bar over the slices.

    Returns:
        The degraded volume with the same shape and geometry, and the physics that made it.

    Raises:
        ConfigurationError: for a level that is no degradation.
        DataRejected: when the volume's physics is not known well enough, with the reason.
    """
    strength = severity(task, level)
    reason = why_not(volume, task, record)
    if reason is not None:
        raise DataRejected(f"Cannot degrade this volume: {reason}.")
    voxels = volume.voxels
    shape, spacing = (voxels.shape[1], voxels.shape[2]), volume.spacing
    parameters: Any
    if task is Task.CT_DENOISING:
        slice_mm = record.spacing_mm[0] if record is not None else spacing[0]
        parameters = ct.parameters_for(level, shape, spacing[1], slice_mm, record)
        parameters = calibrate(voxels, spacing[1], parameters)
        batches = ct.lower_dose(voxels, spacing[1], parameters, seed)
    elif task is Task.PET_SYNTHESIS:
        true_spacing = record.spacing_mm if record is not None else spacing
        parameters = pet.parameters_for(level, shape, true_spacing, record)
        batches = pet.lower_counts(voxels, spacing[1], parameters, seed)
    else:
        parameters = mr.MrParameters(level)
        batches = mr.lower_resolution(voxels, parameters, seed)
    result = np.empty(voxels.shape, dtype=np.float32)
    done = 0
    for batch in track(batches, str(task), unit="batch") if progress else batches:
        result[done : done + len(batch)] = batch
        done += len(batch)
    physics = Physics(
        model=VERSIONS[task], level=level, severity=round(strength, 6), seed=seed, parameters=parameters.as_record()
    )
    return Volume(result, volume.affine), physics
