"""Judging: each gate's figure in every stratum of its scope, and the worst stratum's verdict."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from pydantic import Field

from components.evaluate.results import CHAMPION, UNIFIED, Comparison, Evaluation, Row
from components.gate.policy import Gate
from mira.cases import Record
from mira.quality.statistics import FEWEST_FOR_BOUNDS
from mira.tasks import Task

Status = Literal["pass", "warn", "fail", "not decidable", "not applicable"]
_MISSED: dict[str, Status] = {"must": "fail", "warn": "warn"}
_ORDER: tuple[Status, ...] = ("not applicable", "pass", "warn", "not decidable", "fail")
# figures of the restored images of one network alone
OF_IMAGES = ("gain_db", "clinical", "clinical_worst", "local_minus_test_gain_db")


class Finding(Record):
    """A figure in one stratum.

    Attributes:
        stratum: what the stratum is: task, split, site, level and so on, as far as the figure tells them apart.
        value: the figure.
        patients: patients behind it.
        bounds: lower and upper one-sided 95 % bound of what it estimates; None where unknown.
        status: verdict of this stratum alone.
    """

    stratum: dict[str, str | float]
    value: float
    patients: int
    bounds: tuple[float, float] | None = None
    status: Status = "not applicable"


class RuleResult(Record):
    """What one gate gave.

    Attributes:
        value: figure of the deciding stratum; None when there was nothing to check.
        stratum: the deciding stratum.
        patients: patients in it.
        findings: every stratum, worst first.
        not_covered: `task, split` of the scope for which there was no figure, or `task, split, site` where only some
            sites have it.
        note: what a reader must know to read the status.
    """

    id: str
    says: str
    figure: str
    threshold: str
    unit: str
    source: str
    severity: str
    status: Status
    value: float | None = None
    stratum: dict[str, str | float] = Field(default_factory=dict)
    patients: int = 0
    findings: list[Finding] = Field(default_factory=list)
    not_covered: list[str] = Field(default_factory=list)
    note: str = ""


def judge(gate: Gate, evaluation: Evaluation, profile: str) -> RuleResult:
    """Apply one gate to an evaluation.

    Args:
        gate: the rule.
        evaluation: the candidate's measures.
        profile: metric profile that the policy speaks of.

    Returns:
        The result; `not applicable` when nothing in the scope has the figure, never a pass. A `must` fails when a
        task was measured on a set in its scope and the figure is missing there: nothing shows that the rule holds.
    """
    findings = [
        finding.model_copy(update={"status": _verdict(gate, finding)})
        for finding in _FIGURES[gate.figure](gate, evaluation, profile)
    ]
    findings.sort(key=lambda f: (-_ORDER.index(f.status), gate.threshold.margin(f.value)))
    result = RuleResult(
        id=gate.id,
        says=gate.says,
        figure=gate.measure or gate.figure,
        threshold=str(gate.threshold),
        unit=gate.unit,
        source=gate.source,
        severity=gate.severity,
        status="not applicable",
        findings=findings,
        not_covered=_not_covered(gate, evaluation, profile, findings),
        note=_note(gate, evaluation, findings),
    )
    if findings:
        worst = findings[0]
        chosen = {"status": worst.status, "value": worst.value, "stratum": worst.stratum, "patients": worst.patients}
        result = result.model_copy(update=chosen)
    if absent := _absent(gate, evaluation, profile, findings):
        note = f"The evaluation lacks this figure for {'; '.join(absent)}: nothing shows that the rule holds."
        result = result.model_copy(update={"status": "fail", "note": note})
    return result


def judge_alone(gates: Iterable[Gate], evaluation: Evaluation, profile: str, network: str) -> list[str]:
    """Ids of the `must` rules about images that a single-task network breaks, as if it were the candidate.

    `evidence` stands alone for a network that was not measured: a task that the unified network lacks has no rows.
    """
    alone = evaluation.model_copy(
        update={
            "rows": [row.model_copy(update={"network": UNIFIED}) for row in evaluation.rows if row.network == network],
            "networks": {UNIFIED: evaluation.networks[network]},
            "comparisons": [],
            "indicators": [],
        }
    )
    if not alone.rows:
        return ["evidence"]
    own = (gate for gate in gates if gate.figure in OF_IMAGES and gate.severity == "must")
    return [gate.id for gate in own if judge(gate, alone, profile).status == "fail"]


def _verdict(gate: Gate, finding: Finding) -> Status:
    if gate.figure not in ("patients", "local_patients") and finding.patients < gate.minimum_patients:
        return _MISSED[gate.severity] if _disproved(gate, finding) else "not decidable"
    if gate.threshold.met(finding.value):
        return "pass"
    return _MISSED[gate.severity]


def _disproved(gate: Gate, finding: Finding) -> bool:
    """Whether patients too few to support the claim show all the same that it does not hold."""
    enough = FEWEST_FOR_BOUNDS <= finding.patients < gate.minimum_patients
    return enough and finding.bounds is not None and gate.threshold.excludes(*finding.bounds)


def _absent(gate: Gate, evaluation: Evaluation, profile: str, findings: list[Finding]) -> list[str]:
    """Each `task, set` that was measured in the scope of a `must` without giving its figure."""
    if gate.severity != "must" or gate.figure in ("patients", "local_patients", "local_minus_test_gain_db", "parity"):
        return []
    measured = {(row.task, row.split) for row in _in_scope(gate, evaluation, profile)}
    if gate.figure == "unified_minus_single_db":
        measured = {place for place in measured if place[0].value in evaluation.networks}
    if gate.figure == "unified_minus_champion_db":
        champion = evaluation.networks.get(CHAMPION)
        measured = {place for place in measured if champion and place[0] in champion.tasks}
    have = {(finding.stratum.get("task"), finding.stratum.get("split")) for finding in findings}
    return [
        f"{task.value}, {split}"
        for task in Task
        for split in gate.scope.splits
        if (task, split) in measured and (task.value, split) not in have
    ]


def _not_covered(gate: Gate, evaluation: Evaluation, profile: str, findings: list[Finding]) -> list[str]:
    covered = {(finding.stratum.get("task"), finding.stratum.get("split")) for finding in findings}
    if gate.figure in ("parity", "local_patients", "local_minus_test_gain_db"):
        tasks = {task for task, _ in covered}
        return (
            [task.value for task in gate.scope.tasks if task.value not in tasks]
            if findings and None not in tasks
            else []
        )
    missing = [f"{t.value}, {s}" for t in gate.scope.tasks for s in gate.scope.splits if (t.value, s) not in covered]
    if gate.figure in ("clinical", "clinical_worst"):
        sites = {(f.stratum.get("task"), f.stratum.get("split"), f.stratum.get("site")) for f in findings}
        rows = {(row.task.value, row.split, row.site) for row in _in_scope(gate, evaluation, profile)}
        missing += [", ".join(place) for place in sorted(rows - sites) if place[:2] in covered]
    return missing


def _note(gate: Gate, evaluation: Evaluation, findings: list[Finding]) -> str:
    if gate.figure == "parity":
        return "Checked by the export step, which refuses an engine outside this tolerance."
    if gate.figure == "unified_minus_champion_db" and CHAMPION not in evaluation.networks:
        return "No champion serves yet, or the candidate is the champion."
    if not findings:
        return "Nothing in the evaluation has this figure."
    if any(_disproved(gate, finding) for finding in findings):
        return (
            f"Fewer than {gate.minimum_patients} patients in a stratum cannot support this claim, but even the better "
            "end of its 95 % interval misses the threshold."
        )
    if any(finding.status == "not decidable" for finding in findings):
        return (
            f"Fewer than {gate.minimum_patients} patients in a stratum cannot support this claim; counted as a warning."
        )
    return ""


def _in_scope(gate: Gate, evaluation: Evaluation, profile: str) -> Iterator[Row]:
    """Rows of the unified network in the gate's scope and the policy's profile."""
    tasks, splits = gate.scope.tasks, gate.scope.splits
    for row in evaluation.rows:
        if row.network == UNIFIED and row.profile == profile and row.task in tasks and row.split in splits:
            yield row


def _compared(gate: Gate, evaluation: Evaluation, profile: str) -> Iterator[Comparison]:
    """Comparisons of the unified network in the gate's scope and the policy's profile."""
    tasks, splits = gate.scope.tasks, gate.scope.splits
    for c in evaluation.comparisons:
        if c.network == UNIFIED and c.profile == profile and c.task in tasks and c.split in splits:
            yield c


def _stratum(row: Row) -> dict[str, str | float]:
    return {"task": row.task.value, "split": row.split, "site": row.site, "vendor": row.vendor, "level": row.level}


def _patients(gate: Gate, evaluation: Evaluation, profile: str) -> Iterator[Finding]:
    tasks = evaluation.networks[UNIFIED].tasks if UNIFIED in evaluation.networks else list(Task)
    for task in (t for t in gate.scope.tasks if t in tasks):
        for split in gate.scope.splits:
            count = patients_in(evaluation, task, split)
            yield Finding(stratum={"task": task.value, "split": split}, value=count, patients=count)


def _local_patients(gate: Gate, evaluation: Evaluation, profile: str) -> Iterator[Finding]:
    # one patient may have all modalities, so tasks are not added up
    count = max(patients_in(evaluation, task, "local") for task in gate.scope.tasks)
    yield Finding(stratum={"split": "local"}, value=count, patients=count)


def patients_in(evaluation: Evaluation, task: Task, split: str) -> int:
    """Patients who were measured in a task, each once, whatever the number of their sites, scanners and levels."""
    return int(evaluation.summary.get(task.value, {}).get(split, {}).get("patients") or 0)


def _gain(gate: Gate, evaluation: Evaluation, profile: str) -> Iterator[Finding]:
    for row in _in_scope(gate, evaluation, profile):
        if row.gain_db is not None:
            yield Finding(stratum=_stratum(row), value=row.gain_db, patients=row.patients)


def _clinical(gate: Gate, evaluation: Evaluation, profile: str) -> Iterator[Finding]:
    for row in _in_scope(gate, evaluation, profile):
        figures = row.clinical if gate.figure == "clinical" else row.clinical_worst
        if gate.measure in figures:
            yield Finding(stratum=_stratum(row), value=figures[gate.measure], patients=row.patients)


def _against_single(gate: Gate, evaluation: Evaluation, profile: str) -> Iterator[Finding]:
    for c in _compared(gate, evaluation, profile):
        if c.other == c.task.value:
            stratum: dict[str, str | float] = {"task": c.task.value, "split": c.split, "mean_db": c.difference_db}
            yield Finding(stratum=stratum, value=c.lower_db, patients=c.patients, bounds=_bounds(c))


def _against_champion(gate: Gate, evaluation: Evaluation, profile: str) -> Iterator[Finding]:
    for c in _compared(gate, evaluation, profile):
        if c.other == CHAMPION:
            stratum: dict[str, str | float] = {"task": c.task.value, "split": c.split}
            yield Finding(stratum=stratum, value=c.difference_db, patients=c.patients, bounds=_bounds(c))


def _bounds(c: Comparison) -> tuple[float, float] | None:
    return None if c.upper_db is None else (c.lower_db, c.upper_db)


def _local_margin(gate: Gate, evaluation: Evaluation, profile: str) -> Iterator[Finding]:
    """Worst local site's gain minus the mean gain on test patients, at the same level."""
    rows = [row for row in _in_scope(gate, evaluation, profile) if row.gain_db is not None]
    for row in rows:
        inside = [r for r in rows if r.split == "test" and r.task is row.task and r.level == row.level]
        if row.split == "local" and inside and row.gain_db is not None:
            mean = sum((r.gain_db or 0.0) * r.slices for r in inside) / sum(r.slices for r in inside)
            yield Finding(stratum=_stratum(row), value=row.gain_db - mean, patients=row.patients)


def _modality_accuracy(gate: Gate, evaluation: Evaluation, profile: str) -> Iterator[Finding]:
    for i in evaluation.indicators:
        if i.task in gate.scope.tasks and i.split in gate.scope.splits:
            stratum: dict[str, str | float] = {"task": i.task.value, "split": i.split}
            patients = patients_in(evaluation, i.task, i.split)
            yield Finding(stratum=stratum, value=i.modality_accuracy, patients=patients)


def _elsewhere(gate: Gate, evaluation: Evaluation, profile: str) -> Iterator[Finding]:
    yield from ()


_FIGURES: dict[str, Callable[[Gate, Evaluation, str], Iterator[Finding]]] = {
    "patients": _patients,
    "local_patients": _local_patients,
    "gain_db": _gain,
    "clinical": _clinical,
    "clinical_worst": _clinical,
    "unified_minus_single_db": _against_single,
    "unified_minus_champion_db": _against_champion,
    "local_minus_test_gain_db": _local_margin,
    "modality_accuracy": _modality_accuracy,
    "parity": _elsewhere,
}
