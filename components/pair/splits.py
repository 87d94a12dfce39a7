"""Splits by pseudonymous patient: deterministic, spread over sites and tasks, and stable as data grows."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mira.cases import CaseRecord
from mira.errors import DataRejected
from mira.pairs import PairRecord, Split
from mira.tasks import Task

SMALLEST_SITE = 4  # patients of a train site from which on it also gives validation and test patients


@dataclass
class Patient:
    """What the split needs to know of one patient.

    Attributes:
        name: pseudonym.
        site: the patient's site; for several, the first by name.
        tasks: tasks that the patient's cases can be used for.
    """

    name: str
    site: str
    tasks: set[Task] = field(default_factory=set)


def _order(patient: str, seed: int) -> str:
    return hashlib.sha256(f"split|{seed}|{patient}".encode()).hexdigest()


def previous_splits(pairs: Iterable[PairRecord]) -> dict[str, Split]:
    """Split of each patient in earlier pairs.

    Raises:
        DataRejected: when a patient is in two splits there.
    """
    result: dict[str, Split] = {}
    for pair in pairs:
        if result.setdefault(pair.patient, pair.split) != pair.split:
            raise DataRejected(
                f"The earlier pairs have patient {pair.patient} in both {result[pair.patient]} and {pair.split}; they "
                "must not be continued. Pair again without `previous`, and train anew."
            )
    return result


def assign(
    records: Iterable[CaseRecord],
    seed: int,
    validation_share: float,
    test_share: float,
    previous: Mapping[str, Split] | None = None,
) -> dict[str, Split]:
    """Split of each patient.

    Patients of `local` sites are `local`. A train site of at least `SMALLEST_SITE` patients gives its shares of
    validation and test patients, at least one each, chosen so that each task gets its share; smaller sites are all
    train. Where a task would then have no test or no validation patient anywhere, one train patient of it is moved,
    as long as another stays in train. Earlier assignments are never changed.

    Args:
        records: accepted cases.
        seed: seed of the choice.
        validation_share: share of a site's patients for validation.
        test_share: share of a site's patients for test.
        previous: split of patients that were assigned before.

    Raises:
        DataRejected: when a patient would be in two splits, e.g. is known to a train and to a local site.
    """
    before = dict(previous or {})
    roles: dict[str, set[str]] = {}
    patients: dict[str, Patient] = {}
    for record in sorted(records, key=lambda r: (r.site, r.case_id)):
        roles.setdefault(record.patient, set()).add(record.role)
        patients.setdefault(record.patient, Patient(record.patient, record.site)).tasks.update(record.tasks)
    _refuse_leaks(roles, before)
    result: dict[str, Split] = {name: "local" for name, role in roles.items() if role == {"local"}}
    result |= {name: before[name] for name in patients if name in before}
    trainable = sorted((p for p in patients.values() if roles[p.name] == {"train"}), key=lambda p: _order(p.name, seed))
    for site in sorted({p.site for p in trainable}):
        own = [p for p in trainable if p.site == site]
        if len(own) >= SMALLEST_SITE:
            _fill(own, "test", max(1, round(test_share * len(own))), test_share, result)
            _fill(own, "validation", max(1, round(validation_share * len(own))), validation_share, result)
    for patient in trainable:
        result.setdefault(patient.name, "train")
    _cover(trainable, result, before)
    return result


def _refuse_leaks(roles: Mapping[str, set[str]], before: Mapping[str, Split]) -> None:
    """Raise when a patient's roles, or role and earlier split, contradict each other."""
    for name, role in sorted(roles.items()):
        if len(role) > 1:
            raise DataRejected(
                f"Patient {name} is known to a train site and to a local site and would be in two splits. Remove the "
                "patient's cases from one of them."
            )
        if name in before and (before[name] == "local") != (role == {"local"}):
            raise DataRejected(
                f"Patient {name} was in split {before[name]} before, but now comes from a site with role "
                f"{next(iter(role))}. A patient keeps the split: restore the site's role, or remove the cases."
            )


def _fill(own: list[Patient], split: Split, wanted: int, share: float, result: dict[str, Split]) -> None:
    """Give a site's free patients to a split until it has the wanted number, the task that lacks most first."""
    tasks = {task for patient in own for task in patient.tasks}
    target = {task: share * sum(task in p.tasks for p in own) for task in tasks}
    for _ in range(wanted - sum(result.get(p.name) == split for p in own)):
        free = [p for p in own if p.name not in result]
        if len(free) < 2:  # the last one trains
            return
        have = {task: sum(result.get(p.name) == split and task in p.tasks for p in own) for task in tasks}
        chosen = max(free, key=lambda p: sum(target[task] - have[task] for task in p.tasks))
        result[chosen.name] = split


def _cover(trainable: list[Patient], result: dict[str, Split], before: Mapping[str, Split]) -> None:
    """Move single train patients so that every task with three patients or more has test and validation patients."""
    splits: tuple[Split, Split] = ("test", "validation")
    for task in sorted({task for p in trainable for task in p.tasks}):
        for split in splits:
            if any(result[p.name] == split and task in p.tasks for p in trainable):
                continue
            train = [p for p in trainable if result[p.name] == "train" and task in p.tasks]
            movable = [p for p in train if p.name not in before and not _last_of_a_task(p, trainable, result)]
            if len(train) >= 2 and movable:
                chosen = max(movable, key=lambda p: sum(q.site == p.site for q in train))
                result[chosen.name] = split


def _last_of_a_task(patient: Patient, trainable: list[Patient], result: Mapping[str, Split]) -> bool:
    """Whether a task would have no train patient left without this one."""
    others = [p for p in trainable if p is not patient and result[p.name] == "train"]
    return any(all(task not in p.tasks for p in others) for task in patient.tasks)
