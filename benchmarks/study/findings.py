"""What the study says: figures per network, paired differences, and the claims that they decide."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.study.measuring import CLASSICAL, SHUFFLED, Blank, Cost, Setting
from benchmarks.study.training import ALL
from mira.quality.statistics import PairedDifference, paired_bootstrap
from mira.tasks import Task

if TYPE_CHECKING:
    import pandas as pd

    from components.evaluate.results import Indicator

INPUT = "input"
CONFIDENCE = 0.95
DRAWS = 10_000
BOUND_DB = -0.15  # of unified minus single-task


@dataclass(frozen=True)
class Difference:
    """A paired difference in PSNR between two networks on the same patients.

    Attributes:
        first: name of the first network.
        second: name of the second.
        task: the task.
        data: what they were compared on.
        split: `test`, `local`, or both.
        mean: first minus second, mean over patients, in dB.
        lower: lower bound of the one-sided 95 % interval.
        upper: upper bound of the other side.
        patients: patients compared.
    """

    first: str
    second: str
    task: str
    data: str
    split: str
    mean: float
    lower: float
    upper: float
    patients: int


def per_patient(table: "pd.DataFrame", network: str, task: str, profile: str, column: str = "psnr") -> dict[str, float]:
    """Mean over a patient's slices, cases and levels."""
    part = table[(table.network == network) & (table.task == task) & (table.profile == profile)]
    return {str(patient): float(value) for patient, value in part.groupby("patient")[column].mean().items()}


def difference(
    table: "pd.DataFrame", first: str, second: str, task: str, profile: str, data: str, split: str
) -> Difference | None:
    """Compare two networks; None when no patient was measured with both."""
    part = table if split == "both" else table[table.split == split]
    one, other = per_patient(part, first, task, profile), per_patient(part, second, task, profile)
    if not one.keys() & other.keys():
        return None
    found: PairedDifference = paired_bootstrap(one, other, CONFIDENCE, DRAWS)
    return Difference(first, second, task, data, split, found.mean, found.lower, found.upper, found.patients)


def differences(table: "pd.DataFrame", size: str, profile: str, data: str) -> list[Difference]:
    """Everything that the claims need: unified against single-task, ablations, and the rivals."""
    found = []
    unified = f"{size}:{ALL}"
    for task in (task.value for task in Task):
        single = f"{size}:{task}"
        rivals = sorted({n for n in table.network if n.endswith(f":{task}")} - {single})
        wanted = [
            (unified, single),
            (unified, f"{size}-unguided:{ALL}"),
            (unified, f"{size}-label:{ALL}"),
            (unified, SHUFFLED),
            (unified, INPUT),
            (single, CLASSICAL),
            (unified, CLASSICAL),
            *((single, rival) for rival in rivals),
            *((unified, rival) for rival in rivals),
        ]
        for first, second in wanted:
            for split in ("test", "local", "both"):
                item = difference(table, first, second, task, profile, data, split)
                if item is not None:
                    found.append(item)
    return found


def figures(table: "pd.DataFrame", profile: str) -> "pd.DataFrame":
    """Mean over slices of PSNR, SSIM and RMSE by task, split and network."""
    part = table[table.profile == profile]
    keys = ["task", "split", "network"]
    return part.groupby(keys, as_index=False).agg(
        patients=("patient", "nunique"),
        slices=("slice", "count"),
        psnr=("psnr", "mean"),
        ssim=("ssim", "mean"),
        rmse=("rmse", "mean"),
        gain_db=("gain_db", "mean"),
    )


def keys_of(found: Sequence[Difference], costs: Mapping[str, Cost], size: str) -> dict[str, Any]:
    """The stable keys of the benchmark, per task, over test and local patients together.

    Of a Restormer trained at several learning rates, the best counts.
    """
    unified = f"{size}:{ALL}"

    def of(first: str, second: str, task: str) -> Difference | None:
        return next(
            (d for d in found if (d.first, d.second, d.task, d.split) == (first, second, task, "both")),
            None,
        )

    result: dict[str, Any] = {}
    for task in (task.value for task in Task):
        single = f"{size}:{task}"
        rivals = [name for name in costs if name.startswith("restormer") and name.endswith(f":{task}")]
        gain, same = of(unified, INPUT, task), of(unified, single, task)
        against = [met for rival in rivals if (met := of(single, rival, task))]
        result[task] = {
            "gain_db": gain.mean if gain else None,
            "unified_minus_single_db": same.mean if same else None,
            "unified_minus_single_lower_db": same.lower if same else None,
            "minus_restormer_db": min(met.mean for met in against) if against else None,
            "multiplications_ratio": (
                costs[single].multiplications / costs[rivals[0]].multiplications if rivals else None
            ),
            "patients": same.patients if same else 0,
        }
    return result


def blank_line(blank: Blank) -> str:
    """What the page says of slices that were left out."""
    if not blank.slices:
        return "No slice was left out as blank.\n"
    return (
        f"Left out as blank, since they show nothing of the patient: {blank.slices} slices in {blank.volumes} volumes "
        "of test and local patients.\n"
    )


def classical_line(settings: Mapping[Task, Setting]) -> str:
    """What the page says of the classical methods and their settings."""

    def told(setting: Setting, unit: str) -> str:
        return f"{setting.value:g} {unit}" + (", at the edge of what was tried" if setting.at_edge else "")

    strength, sigma = told(settings[Task.CT_DENOISING], "x noise"), told(settings[Task.PET_SYNTHESIS], "pixels")
    methods = f"CT non-local means ({strength}), PET a Gaussian (sigma {sigma}), MR the zero-filled input itself"
    shuffled = "the unified network with the instruction of an image of another modality"
    return f"`{CLASSICAL}`, tuned on validation patients: {methods}. `{SHUFFLED}`: {shuffled}.\n"


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---" for _ in header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def network_table(table: "pd.DataFrame", costs: Mapping[str, Cost], profile: str, task: str) -> str:
    """Figures and cost of every network for a task, the input's row first."""
    part = figures(table, profile)
    part = part[part.task == task]
    rows = []
    means = part.groupby("network").psnr.mean()
    order = sorted(means.index, key=lambda name: (name != INPUT, name != CLASSICAL, -means[name]))
    for network in order:
        cells = [network.replace(f":{task}", "").replace(f":{ALL}", " (unified)")]
        cost = costs.get(network)
        cells += (
            [f"{cost.parameters / 1e3:,.0f} k", f"{cost.multiplications / 1e3:.1f} k", f"{cost.seconds * 1e3:,.0f}"]
            if cost
            else ["", "", ""]
        )
        for split in ("test", "local"):
            line = part[(part.network == network) & (part.split == split)]
            cells += (
                [f"{line.psnr.iloc[0]:.2f}", f"{line.ssim.iloc[0]:.4f}", f"{line.rmse.iloc[0]:.3g}"]
                if len(line)
                else ["", "", ""]
            )
        rows.append(cells)
    header = ["network", "weights", "mult./px", "ms 512²"]
    header += [f"{what} {split}" for split in ("test", "local") for what in ("PSNR", "SSIM", "RMSE")]
    return markdown(header, rows)


def profile_table(table: "pd.DataFrame", profile: str) -> str:
    """PSNR, SSIM and RMSE of every network in another profile, test and local together, the input's row first."""
    part = table[table.profile == profile]
    rows = []
    for task in (task.value for task in Task):
        means = part[part.task == task].groupby("network")[["psnr", "ssim", "rmse"]].mean()
        for network in sorted(means.index, key=lambda name: (name != INPUT, name != CLASSICAL, -means.psnr[name])):
            figures = means.loc[network]
            words = network.replace(f":{task}", "").replace(f":{ALL}", " (unified)")
            rows.append([task, words, f"{figures.psnr:.2f}", f"{figures.ssim:.4f}", f"{figures.rmse:.3g}"])
    return markdown(["task", "network", "PSNR", "SSIM", "RMSE"], rows)


def difference_table(found: Sequence[Difference], wanted: Sequence[tuple[str, str]], split: str = "both") -> str:
    """Paired differences, one row per comparison, one column per task."""
    rows = []
    for first, second in wanted:
        cells = [f"{first} − {second}"]
        for task in (task.value for task in Task):
            item = next(
                (
                    d
                    for d in found
                    if d.split == split
                    and d.task == task
                    and d.first == first.replace("TASK", task)
                    and d.second == second.replace("TASK", task)
                ),
                None,
            )
            cells.append(f"{item.mean:+.2f} [{item.lower:+.2f}, {item.upper:+.2f}], n={item.patients}" if item else "")
        rows.append([_in_words(cell) for cell in cells])
    return markdown(["PSNR difference, dB", *(task.value for task in Task)], rows)


def _in_words(names: str) -> str:
    return names.replace(":TASK", " (single-task)").replace(f":{ALL}", " (unified)")


def seed_table(table: "pd.DataFrame", wanted: Sequence[tuple[str, str]], profile: str, data: str) -> str:
    """Paired differences, one row per comparison and seed: how much of a difference is luck of weights and patches."""
    rows = []
    for first, second in wanted:
        for seed, part in table.groupby("seed"):
            cells = [_in_words(f"{first} − {second}"), str(seed)]
            for task in (task.value for task in Task):
                one, other = (name.replace("TASK", task) for name in (first, second))
                item = difference(part, one, other, task, profile, data, "both")
                cells.append(f"{item.mean:+.2f}" if item else "")
            rows.append(cells)
    return markdown(["PSNR difference, dB", "seed", *(task.value for task in Task)], rows)


def strata_table(table: "pd.DataFrame", size: str, profile: str) -> str:
    """Unified against input and single-task by task, split, site and level."""
    part = table[table.profile == profile]
    rows = []
    keys = ["task", "split", "site", "level"]
    for key, group in part.groupby(keys, sort=True):
        means = group.groupby("network").psnr.mean()
        task = str(key[0])
        single = means.get(f"{size}:{task}", np.nan)
        unified = means[f"{size}:{ALL}"]
        rows.append(
            [
                *(f"{value:g}" if isinstance(value, float) else str(value) for value in key),
                str(group.patient.nunique()),
                f"{means[INPUT]:.2f}",
                f"{single:.2f}",
                f"{unified:.2f}",
                f"{unified - means[INPUT]:+.2f}",
                f"{unified - single:+.2f}",
            ]
        )
    header = [*keys, "patients", "input", "single-task", "unified", "gain", "unified − single"]
    return markdown(header, rows)


def indicator_table(found: "Mapping[int, Sequence[Indicator]]") -> str:
    """What the unified network of each seed says of its input, by task and split."""
    rows = [
        [
            item.task.value,
            item.split,
            str(seed),
            str(item.slices),
            f"{100 * item.modality_accuracy:.1f}",
            "" if item.severity_correlation is None else f"{item.severity_correlation:.2f}",
            "" if item.severity_correlation_within is None else f"{item.severity_correlation_within:.2f}",
            "" if item.error_correlation is None else f"{item.error_correlation:.2f}",
            f"{item.severity_error:.2f}",
        ]
        for seed, items in found.items()
        for item in items
    ]
    header = ["task", "split", "seed", "slices", "modality right, %", "severity rank correlation", "within a case"]
    return markdown([*header, "with the input's error", "mean error"], rows)


def as_json(found: Sequence[Difference]) -> list[dict[str, Any]]:
    """Differences as plain values."""
    return [asdict(item) for item in found]
