"""The model card: what a version is for, what it was made from, and what it was measured to do."""

from typing import Any

from components.evaluate.page import totals
from components.evaluate.pictures import label
from components.evaluate.results import UNIFIED, Evaluation
from components.gate.step import describe_stratum
from components.register.lineage import Lineage, TrainedNetwork
from mira.pairs import PairIndex
from mira.tasks import TASKS, Task


def model_card(
    lineage: Lineage, evaluation: Evaluation, decision: dict[str, Any], index: PairIndex, notices: list[str]
) -> str:
    """The card as Markdown.

    Args:
        lineage: what the version rests on.
        evaluation: its measures.
        decision: the gate's decision.
        index: the pairs that it was trained and measured on.
        notices: licence and attribution of what its networks began from, as the train step keeps them.
    """
    network = evaluation.networks[UNIFIED]
    parts = [
        "# MIRA-Net",
        "",
        "One network that restores low-dose CT, low-count PET and low-resolution MR, guided by its own estimate of "
        "modality and degradation.",
        "",
        "## Intended use",
        "",
        "Research. Not a medical device; not for diagnosis. Restored images stay beside the originals.",
        "",
        *(_task_line(task) for task in network.tasks),
        "",
        f"Size `{network.size}`. Inputs are whole slices from 32 x 32 up, in native units. Values outside the "
        "normalised range pass through.",
        "",
        "## Data",
        "",
        "Real or phantom anatomy of the sites below with **simulated** degradation; no truly paired low-dose scans.",
        "",
        *_data_table(index),
        "",
        *_start_lines(lineage, evaluation),
        *_attribution(lineage, notices),
        "## Measures",
        "",
        f"PSNR in dB, profile `{evaluation.profile}`: {evaluation.profiles[evaluation.profile]} "
        "The degraded input's own figure stands in its column.",
        "",
        *_measures_table(evaluation),
        "",
        "## Gate",
        "",
        f"Approved by policy `{lineage.policy_sha256[:12]}`.",
        "",
        "| rule | status | figure | threshold | deciding stratum |",
        "|---|---|---:|---:|---|",
        *(_rule_line(rule) for rule in decision["rules"]),
        "",
        "## Limits",
        "",
        "- Degradation is simulated; real low-dose, low-count and low-resolution scans may differ.",
        "- Small or low-contrast structures can lose contrast; compare with the original before any conclusion.",
        "- Scanners, kernels, tracers and sequences that no site of the table has were not measured.",
        *(f"- {impact['risk']}: {impact['remaining']}." for impact in decision["impact"] if impact["remaining"]),
        "",
        "## Lineage",
        "",
        "| | |",
        "|---|---|",
        f"| code | `{lineage.code_version}` |",
        f"| data | `{lineage.data_version}` |",
        f"| configuration | `{lineage.config_sha256}` |",
        f"| evaluation | `{lineage.evaluation_sha256}` |",
        f"| decision | `{lineage.decision_sha256}` |",
        *(
            f"| {name} | weights `{n.weights_sha256}`, run `{n.run_id}`{_began(n)} |"
            for name, n in sorted(lineage.networks.items())
        ),
        *(f"| {name} | not exported: alone, it breaks {', '.join(why)} |" for name, why in lineage.left_out.items()),
    ]
    return "\n".join(parts) + "\n"


def _task_line(task: Task) -> str:
    spec = TASKS[task]
    return f"- {label(task)}: {spec.modality} in {spec.unit}, degraded by {spec.level_name}."


def _data_table(index: PairIndex) -> list[str]:
    lines = ["| site | task | scanners | train | validation | test | local |", "|---|---|---|---:|---:|---:|---:|"]
    for site, task in sorted({(pair.site, pair.task) for pair in index.pairs}):
        own = [pair for pair in index.pairs if pair.site == site and pair.task is task]
        scanners = ", ".join(sorted({f"{pair.manufacturer} {pair.model_name}".strip() for pair in own}))
        counts = [
            len({pair.patient for pair in own if pair.split == split})
            for split in ("train", "validation", "test", "local")
        ]
        lines.append(f"| {site} | {task} | {scanners} | {' | '.join(map(str, counts))} |")
    return [*lines, "", "Counts are patients."]


def _start_lines(lineage: Lineage, evaluation: Evaluation) -> list[str]:
    """What the weights that a training began from had learnt already, and what that does to the measures."""
    started = {n.started_from.sha256: n.started_from for n in lineage.networks.values() if n.started_from is not None}
    lines: list[str] = []
    for start in started.values():
        names = [name for name, n in sorted(lineage.networks.items()) if n.started_from == start]
        known = f"trained on {', '.join(start.datasets)}" if start.datasets else "whose data no card names"
        unknown = any(evaluation.networks[name].patients_unknown != [] for name in names)
        lines += [
            f"Started from {start.label} (network `{start.network}`, weights `{start.sha256}`), {known}: "
            f"{', '.join(names)}. Steps and patches of this version are those after it. A single-task network that "
            "starts from a unified one has seen the other tasks, too. "
            + (
                "Whether patients of the table were among the data of the start cannot be checked by pseudonym; where "
                "they were, figures on them are too good."
                if unknown
                else "No test or local patient of the table was among its train and validation patients."
            ),
            "",
        ]
    return lines


def _attribution(lineage: Lineage, notices: list[str]) -> list[str]:
    """Licence and attribution of the weights that a training began from, which go with every copy."""
    if all(network.started_from is None for network in lineage.networks.values()):
        return []
    lost = "The weights that it began from came without licence or attribution; what holds for them holds here, too."
    return ["## Attribution", "", *(f"{notice.strip()}\n" for notice in notices or [lost])]


def _began(network: TrainedNetwork) -> str:
    start = network.started_from
    return "" if start is None else f", started from {start.label} `{start.sha256}`"


def _measures_table(evaluation: Evaluation) -> list[str]:
    lines = [
        "| task | set | patients | degraded input | single-task | unified | gain |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in totals(evaluation):
        single = "–" if row["single_psnr"] is None else f"{row['single_psnr']:.2f}"
        lines.append(
            f"| {row['task']} | {row['split']} | {row['patients']:.0f} | {row['input_psnr']:.2f} | {single} "
            f"| {row['unified_psnr']:.2f} | {row['gain_db']:+.2f} |"
        )
    return lines


def _rule_line(rule: dict[str, Any]) -> str:
    value = "–" if rule["value"] is None else f"{rule['value']:.3g} {rule['unit']}"
    stratum = describe_stratum(rule["stratum"]) or "–"
    return f"| {rule['id']} | {rule['status']} | {value} | {rule['threshold']} {rule['unit']} | {stratum} |"
