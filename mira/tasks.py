"""The three tasks, their modalities, units, value ranges and display windows.

Ranges follow the AMIR convention (Yang et al., MICCAI 2024): CT [-1024, 3071] HU and PET [0, 20] SUVbw.
MR has no physical unit; it is divided by the robust scale stored with the case.
"""

from dataclasses import dataclass
from enum import StrEnum


class Modality(StrEnum):
    """Imaging modality. `number` is the order of the network's modality probabilities."""

    CT = "CT"
    PET = "PET"
    MR = "MR"

    @property
    def number(self) -> int:
        """Position in `modality_probability` and value of the serving input `modality`."""
        return list(Modality).index(self)

    @classmethod
    def from_dicom(cls, value: str) -> "Modality":
        """Map a DICOM Modality (CT, PT, MR) to a member.

        Raises:
            ValueError: for any other modality.
        """
        return cls({"PT": "PET"}.get(value, value))


class Unit(StrEnum):
    """Unit of a volume's voxels."""

    HU = "HU"
    SUVBW = "SUVbw"
    BQML = "BQML"
    MR = "a.u."


class Task(StrEnum):
    """Restoration task."""

    CT_DENOISING = "ct-denoising"
    PET_SYNTHESIS = "pet-synthesis"
    MRI_SUPER_RESOLUTION = "mri-super-resolution"


@dataclass(frozen=True)
class TaskSpec:
    """What is fixed about a task.

    Attributes:
        task: the task.
        modality: the modality it restores.
        unit: the unit that its volumes must have.
        short: suffix of the single-task network, as in `mira_net_ct`.
        level_name: what a degradation level means.
        levels: default levels, mildest first.
        window: display window (low, high) in `unit`; for MR in multiples of the robust scale.
    """

    task: Task
    modality: Modality
    unit: Unit
    short: str
    level_name: str
    levels: tuple[float, ...]
    window: tuple[float, float]


TASKS: dict[Task, TaskSpec] = {
    Task.CT_DENOISING: TaskSpec(
        Task.CT_DENOISING, Modality.CT, Unit.HU, "ct", "dose fraction", (0.25, 0.1), (-160.0, 240.0)
    ),
    Task.PET_SYNTHESIS: TaskSpec(
        Task.PET_SYNTHESIS, Modality.PET, Unit.SUVBW, "pet", "count fraction", (0.25, 0.1), (0.0, 6.0)
    ),
    Task.MRI_SUPER_RESOLUTION: TaskSpec(
        Task.MRI_SUPER_RESOLUTION, Modality.MR, Unit.MR, "mri", "resolution factor", (2.0, 4.0), (0.0, 1.0)
    ),
}


def task_of(modality: Modality) -> TaskSpec:
    """The one task that restores a modality."""
    return next(spec for spec in TASKS.values() if spec.modality is modality)
