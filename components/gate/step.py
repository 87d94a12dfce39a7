"""Gate: a policy decides about a candidate, rule by rule; the worst stratum decides, not the mean."""

from pathlib import Path
from typing import Any

from pydantic import Field

from components.evaluate.results import CHAMPION, UNIFIED, Evaluation, read_evaluation
from components.gate.policy import Policy, load_policy, policy_hash
from components.gate.rules import RuleResult, judge, judge_alone, patients_in
from mira.cases import Record
from mira.errors import DataRejected
from mira.storage import atomic_folder, hash_file, write_json, write_text
from mira.tasks import Task


class GateConfig(Record):
    """The gate step has no parameters: everything that decides is in the policy."""


class GateSummary(Record):
    """What was decided.

    Attributes:
        approved: no `must` failed.
        failed: ids of the `must` rules that failed.
        warned: ids of the rules that warn or could not be decided.
        not_applicable: ids of the rules that had nothing to check.
        left_out: single-task networks that break a `must` about images themselves, with its ids: they are neither
            exported nor served. The unified network alone decides about the candidate.
    """

    approved: bool
    failed: list[str]
    warned: list[str]
    not_applicable: list[str]
    left_out: dict[str, list[str]] = Field(default_factory=dict)


def gate(evaluation: Path, policy: str, out: Path) -> GateSummary:
    """Decide about a candidate.

    Args:
        evaluation: folder with the candidate's `metrics.json`.
        policy: text of the policy.
        out: folder for `decision.json` and `decision.md`.

    Returns:
        Whether it is approved, and which rules failed.

    Raises:
        ConfigurationError: for a policy that cannot be read.
        DataRejected: for an evaluation without `metrics.json`, or whose figures are not of the policy's profile.
    """
    rules = load_policy(policy)
    measured = read_evaluation(evaluation)
    profile = rules.protocol.profile
    if measured.rows and profile not in {row.profile for row in measured.rows}:
        raise DataRejected(
            f"The policy speaks of the metric profile {profile!r}, but the evaluation has "
            f"{', '.join(sorted(measured.profiles))}. Add it to `evaluate.profiles` and evaluate again."
        )
    results = [judge(rule, measured, profile) for rule in rules.protocol.gates]
    if not measured.rows or UNIFIED not in measured.networks:
        results.insert(0, _no_evidence(measured))
    if UNIFIED in measured.networks and CHAMPION in measured.networks:
        results.insert(0, _keeps_tasks(measured.networks[UNIFIED].tasks, measured.networks[CHAMPION].tasks))
    failed = [r.id for r in results if r.status == "fail"]
    alone = {
        name: judge_alone(rules.protocol.gates, measured, profile, name)
        for name in measured.networks
        if name not in (UNIFIED, CHAMPION)
    }
    summary = GateSummary(
        approved=not failed,
        failed=failed,
        warned=[r.id for r in results if r.status in ("warn", "not decidable")],
        not_applicable=[r.id for r in results if r.status == "not applicable"],
        left_out={name: broken for name, broken in alone.items() if broken},
    )
    decision = _decision(summary, rules, policy, measured, results, evaluation)
    with atomic_folder(out) as new:
        write_json(new / "decision.json", decision)
        write_text(new / "decision.md", _markdown(decision, results))
    return summary


def _no_evidence(measured: Evaluation) -> RuleResult:
    missing = "The evaluation has no rows" if not measured.rows else "The unified network was not measured"
    return RuleResult(
        id="evidence",
        says="There is something to decide on.",
        figure="rows",
        threshold="≥ 1",
        unit="rows",
        source="built in",
        severity="must",
        status="fail",
        value=float(len(measured.rows)),
        note=f"{missing}: nothing was proved about the candidate.",
    )


def _keeps_tasks(candidate: list[Task], champion: list[Task]) -> RuleResult:
    """Built in, since no figure shows it: a task without pairs has no row, and its rules are `not applicable`."""
    lost = [task.value for task in champion if task not in candidate]
    note = (
        f"The candidate was not trained for {', '.join(lost)}, which the champion serves. Pair and train with cases of "
        "every task that is served."
    )
    return RuleResult(
        id="champion-tasks",
        says="A candidate restores every task that the champion restores.",
        figure="tasks lost",
        threshold="≤ 0",
        unit="tasks",
        source="built in; the tasks must not change",
        severity="must",
        status="fail" if lost else "pass",
        value=float(len(lost)),
        note=note if lost else "",
    )


def _decision(
    summary: GateSummary,
    rules: Policy,
    text: str,
    measured: Evaluation,
    results: list[RuleResult],
    evaluation: Path,
) -> dict[str, Any]:
    candidate = measured.networks.get(UNIFIED)
    coverage = {
        task.value: {split: patients_in(measured, task, split) for split in ("test", "local")}
        for task in (candidate.tasks if candidate else [])
    }
    unknown = {
        name: [name] if network.patients_unknown is None else network.patients_unknown
        for name, network in measured.networks.items()
    }
    return {
        **summary.model_dump(),
        "rules": [result.model_dump(mode="json") for result in results],
        "profile": rules.protocol.profile,
        "coverage": coverage,
        "patients_unknown": {name: others for name, others in unknown.items() if others},
        "policy_version": rules.version,
        "policy_sha256": policy_hash(text),
        "evaluation_sha256": hash_file(evaluation / "metrics.json"),
        "candidate_weights_sha256": candidate.weights_sha256 if candidate else "",
        "data_version": measured.data_version,
        "changes": rules.changes.model_dump(),
        "impact": [impact.model_dump() for impact in rules.impact],
    }


def describe_stratum(stratum: dict[str, str | float]) -> str:
    """A stratum in words, e.g. `ct-denoising, local, site-basel, Siemens, level 0.1`."""
    words = {"level": "level {:g}", "mean_db": "mean {:+.2f} dB"}
    order = ("task", "split", "site", "vendor", "level", "mean_db")
    return ", ".join(words.get(key, "{}").format(stratum[key]) for key in order if stratum.get(key, "") != "")


def _markdown(decision: dict[str, Any], results: list[RuleResult]) -> str:
    verdict = "approved" if decision["approved"] else f"refused: {', '.join(decision['failed'])}"
    lines = [
        f"## Gate: {verdict}",
        "",
        f"Metric profile `{decision['profile']}`; policy version {decision['policy_version']} "
        f"(`{decision['policy_sha256'][:12]}`), evaluation `{decision['evaluation_sha256'][:12]}`, "
        f"weights `{decision['candidate_weights_sha256'][:12]}`.",
        "",
        "| rule | status | figure | threshold | worst stratum | patients | severity |",
        "|---|---|---:|---:|---|---:|---|",
    ]
    for r in results:
        value = "–" if r.value is None else f"{r.value:.3g} {r.unit}"
        cells = (r.id, f"**{r.status}**", value, f"{r.threshold} {r.unit}", describe_stratum(r.stratum) or "–")
        lines.append(f"| {' | '.join(_cell(c) for c in cells)} | {r.patients} | {r.severity} |")
    notes = [f"- {r.id}: {r.note}" for r in results if r.note]
    notes += [
        f"- The single-task network {name} is not exported: alone, it breaks {', '.join(broken)}."
        for name, broken in decision["left_out"].items()
    ]
    notes += [
        f"- Nothing shows that the test and local patients are new to the network {name}: nobody wrote down the "
        f"patients that {', '.join(others)} was trained on."
        for name, others in decision["patients_unknown"].items()
    ]
    notes += [f"- {r.id}: no data for {'; '.join(r.not_covered)}." for r in results if r.not_covered and r.findings]
    return "\n".join([*lines, "", *notes]) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")
