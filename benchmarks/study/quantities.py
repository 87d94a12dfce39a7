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

    A bias can be that of the input (the noise of a lesion's own counts, the share of an edge that a cut k-space spreads
    beyond it); `change` tells what restoring itself did.

    Attributes:
        task: the task.
        quantity: clinical figure.
        unit: its unit.
        network: the network, `input` for the degraded image itself.
        mean: mean over patients of each one's mean over cases and levels.
        by_level: mean over patients at each level, the mildest first.
        worst: the largest by size over patients, levels and seeds, with its sign.
        worst_at: site and level of the worst.
        change_by_level: the same as `by_level` of test minus degraded input.
        change_worst: the largest change by size over patients, levels and seeds, with its sign.
        patients: patients measured.
        within: how many of them are within the bar at every level and seed; None without a bar.
        change_within: how many are changed by no more than the bar at every level and seed; None without a bar.
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
    change_by_level: dict[str, float]
    change_worst: float
    patients: int
    within: int | None
    change_within: int | None
    bar: float | None
    meets: bool | None


def bias(cases: "pd.DataFrame", quantity: Quantity, network: str) -> Bias | None:
    """Bias of a quantity in a network's images; None where it was not measured.

    Args:
        cases: what `components.evaluate.aggregate.case_table` gives, with the column `seed`; every profile holds the
            same figures.
        quantity: the quantity.
        network: the network.
    """
    if quantity.column not in cases.columns:
        return None
    measured = cases[(cases.task == quantity.task) & cases[quantity.column].notna()]
    keys = ["patient", "site", "level", "seed"]
    by_network = {name: part.groupby(keys)[quantity.column].mean() for name, part in measured.groupby("network")}
    if network not in by_network:
        return None
    found = by_network[network]
    change = (found - by_network[INPUT]).dropna()
    worst = found.index[int(found.abs().to_numpy().argmax())]
    means = found.groupby("patient").mean()
    bar = quantity.bar

    def levels(values: "pd.Series[float]") -> dict[str, float]:
        own = values.groupby(["level", "patient"]).mean().groupby("level").mean()
        return {f"{x:g}": float(own[x]) for x in sorted(own.index, key=lambda x: severity(quantity.task, x))}

    def within(values: "pd.Series[float]") -> int | None:
        return None if bar is None else int((values.abs().groupby("patient").max() <= bar).sum())

    return Bias(
        task=quantity.task.value,
        quantity=quantity.column,
        unit=quantity.unit,
        network=network,
        mean=float(means.mean()),
        by_level=levels(found),
        worst=float(found[worst]),
        worst_at=f"{worst[1]}, {worst[2]:g}",
        change_by_level=levels(change),
        change_worst=float(change.iloc[int(change.abs().to_numpy().argmax())]),
        patients=len(means),
        within=within(found),
        change_within=within(change),
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
                _levels(item.by_level),
                f"{item.worst:+.2f} ({item.worst_at})",
                f"{item.patients}" if item.within is None else f"{item.within} of {item.patients}",
                *(("", "", "") if item.network == INPUT else _change(item)),
                "" if item.bar is None else f"{item.bar:g}",
                "" if item.meets is None else "met" if item.meets else "missed",
            ]
        )
    header = [
        "quantity",
        "image",
        "mean bias",
        "bias by level",
        "worst patient (site, level)",
        "patients within at all levels",
        "change by level",
        "worst change",
        "patients changed by less at all levels",
        "bar",
    ]
    return markdown([*header, "mean bias"], rows)


def _levels(values: dict[str, float]) -> str:
    return ", ".join(f"{value:+.1f} ({level})" for level, value in values.items())


def _change(item: Bias) -> tuple[str, str, str]:
    within = "" if item.change_within is None else f"{item.change_within} of {item.patients}"
    return _levels(item.change_by_level), f"{item.change_worst:+.2f}", within


def keys_of(found: Sequence[Bias], size: str) -> dict[str, dict[str, Any]]:
    """Biases of the unified network beside the input's, by task and quantity, for the benchmark's keys."""
    result: dict[str, dict[str, Any]] = {}
    for item in found:
        if item.network in (f"{size}:{ALL}", INPUT):
            who = "input_" if item.network == INPUT else ""
            own = result.setdefault(item.task, {})
            own[f"{who}{item.quantity}"] = item.mean
            own[f"{who}{item.quantity}_worst"] = item.worst
            if item.network != INPUT:
                own[f"{item.quantity}_change_worst"] = item.change_worst
    return result


def as_json(found: Sequence[Bias]) -> list[dict[str, Any]]:
    """Biases as plain values."""
    return [asdict(item) for item in found]
