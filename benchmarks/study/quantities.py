"""Whether restoring keeps the quantities that are read from an image: HU, SUV and the MR mean, patient by patient."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.study.findings import INPUT, markdown
from benchmarks.study.measuring import CLASSICAL
from benchmarks.study.training import ALL
from mira.degrade.interface import severity
from mira.tasks import Task

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Quantity:
    """A quantity that restoring must not change.

    Attributes:
        task: the task it is measured in.
        column: its clinical figure, see `components.evaluate.measure.CLINICAL`.
        name: what it is, for tables.
        unit: HU, or % of the reference.
        bar: the largest bias that is allowed; None for a quantity without a bar.
    """

    task: Task
    column: str
    name: str
    unit: str
    bar: float | None


QUANTITIES = (
    Quantity(Task.CT_DENOISING, "hu_mean_bias", "mean HU, uniform soft tissue", "HU", 1.0),
    Quantity(Task.PET_SYNTHESIS, "suv_lesion_bias", "SUVmean of lesions", "%", 2.0),
    Quantity(Task.PET_SYNTHESIS, "suv_mean_bias", "SUVmean of tissue", "%", None),
    Quantity(Task.PET_SYNTHESIS, "activity_bias", "all activity", "%", None),
    Quantity(Task.MRI_SUPER_RESOLUTION, "mr_mean_bias", "mean of MR foreground", "%", 0.5),
)


@dataclass(frozen=True)
class Bias:
    """Bias of a quantity in the images of one network, test minus reference, over test and local patients.

    Attributes:
        task: the task.
        quantity: clinical figure.
        unit: its unit.
        network: the network, `input` for the degraded image itself.
        mean: mean over patients of each one's mean over cases and levels.
        by_level: mean over patients at each level, the mildest first.
        worst: the largest by size over patients and levels, with its sign.
        worst_at: site and level of the worst.
        patients: patients measured.
        within: how many of them are within the bar at every level; None without a bar.
        bar: the largest bias that is allowed, None without a bar.
        meets: whether the mean is within the bar.
    """

    task: str
    quantity: str
    unit: str
    network: str
    mean: float
    by_level: dict[str, float]
    worst: float
    worst_at: str
    patients: int
    within: int | None
    bar: float | None
    meets: bool | None


def bias(cases: "pd.DataFrame", quantity: Quantity, network: str) -> Bias | None:
    """Bias of a quantity in a network's images; None where it was not measured.

    Args:
        cases: what `components.evaluate.aggregate.case_table` gives; every profile holds the same figures.
        quantity: the quantity.
        network: the network.
    """
    if quantity.column not in cases.columns:
        return None
    part = cases[(cases.task == quantity.task) & (cases.network == network) & cases[quantity.column].notna()]
    if not len(part):
        return None
    part = part.drop_duplicates(["case_id", "level"])
    by_level = part.groupby(["patient", "site", "level"])[quantity.column].mean()
    worst = by_level.index[int(by_level.abs().to_numpy().argmax())]
    means, largest = by_level.groupby("patient").mean(), by_level.abs().groupby("patient").max()
    levels = by_level.groupby("level").mean()
    bar = quantity.bar
    return Bias(
        task=quantity.task.value,
        quantity=quantity.column,
        unit=quantity.unit,
        network=network,
        mean=float(means.mean()),
        by_level={
            f"{level:g}": float(levels[level])
            for level in sorted(levels.index, key=lambda x: severity(quantity.task, x))
        },
        worst=float(by_level[worst]),
        worst_at=f"{worst[1]}, {worst[2]:g}",
        patients=len(means),
        within=None if bar is None else int((largest <= bar).sum()),
        bar=bar,
        meets=None if bar is None else bool(abs(means.mean()) <= bar),
    )


def biases(cases: "pd.DataFrame", size: str) -> list[Bias]:
    """Biases of the input, the classical method, the single-task and the unified network."""
    found = []
    for quantity in QUANTITIES:
        for network in (INPUT, CLASSICAL, f"{size}:{quantity.task}", f"{size}:{ALL}"):
            item = bias(cases, quantity, network)
            if item is not None:
                found.append(item)
    return found


def quantity_table(found: Sequence[Bias]) -> str:
    """One row for each quantity and network, the input's first."""
    names = {quantity.column: quantity.name for quantity in QUANTITIES}
    rows = []
    for item in found:
        network = (
            "single-task" if item.network.endswith(f":{item.task}") else item.network.replace(f":{ALL}", " (unified)")
        )
        rows.append(
            [
                f"{names[item.quantity]}, {item.unit}",
                network,
                f"{item.mean:+.2f}",
                ", ".join(f"{value:+.1f} ({level})" for level, value in item.by_level.items()),
                f"{item.worst:+.2f} ({item.worst_at})",
                f"{item.patients}" if item.within is None else f"{item.within} of {item.patients}",
                "" if item.bar is None else f"{item.bar:g}",
                "" if item.meets is None else "met" if item.meets else "missed",
            ]
        )
    header = [
        "quantity",
        "image",
        "mean bias",
        "by level",
        "worst patient (site, level)",
        "patients within at all levels",
        "bar",
    ]
    return markdown([*header, "by the mean"], rows)


def keys_of(found: Sequence[Bias], size: str) -> dict[str, dict[str, Any]]:
    """Biases of the unified network beside the input's, by task and quantity, for the benchmark's keys."""
    result: dict[str, dict[str, Any]] = {}
    for item in found:
        if item.network in (f"{size}:{ALL}", INPUT):
            who = "input_" if item.network == INPUT else ""
            own = result.setdefault(item.task, {})
            own[f"{who}{item.quantity}"] = item.mean
            own[f"{who}{item.quantity}_worst"] = item.worst
    return result


def as_json(found: Sequence[Bias]) -> list[dict[str, Any]]:
    """Biases as plain values."""
    return [asdict(item) for item in found]
