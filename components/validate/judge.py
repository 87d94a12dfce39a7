"""The suites run over cases, sites and the data set, and what follows from their outcomes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from components.validate.relations import site_facts
from components.validate.suites import FACTS, KEYS, About, Checker, Outcome, Suite
from mira.cases import CaseRecord

if TYPE_CHECKING:
    import pandas as pd

Judged = list[tuple[CaseRecord, dict[str, Any]]]
"""Cases with their facts."""


def _table(about: About, rows: list[dict[str, Any]]) -> "pd.DataFrame":
    """Rows of facts as a table that has a column for every fact, known or not."""
    import pandas as pd

    return pd.DataFrame(rows, columns=[KEYS[about], *FACTS[about]])


def check_cases(checker: Checker, suites: list[Suite], judged: Judged) -> tuple[list[Outcome], dict[str, list[str]]]:
    """Judge every case; what a `must` refuses, with its reasons by case id."""
    outcomes: list[Outcome] = []
    for suite in (s for s in suites if s.about == "case"):
        rows = [
            row
            for record, row in judged
            if suite.modality in (None, record.modality) and (suite.task is None or suite.task in record.tasks)
        ]
        outcomes += checker.run(suite, _table("case", rows))
    refusals = {record.case_id: record.task_refusals for record, _ in judged}
    refused: dict[str, list[str]] = {}
    for outcome in outcomes:
        for case_id in outcome.failed if outcome.severity == "must" else []:
            why = "; ".join(refusals[case_id].values()) if outcome.fact == "has_task" else ""
            refused.setdefault(case_id, []).append(f"{outcome.code}: {why or 'not met: ' + outcome.says}")
    return outcomes, refused


def check_sites(
    checker: Checker,
    suites: list[Suite],
    declared: dict[str, dict[str, Any]],
    judged: Judged,
    refused: dict[str, list[str]],
    minimum: Callable[[str], int],
) -> tuple[dict[str, dict[str, Any]], list[Outcome]]:
    """Judge every site by what its cases came to.

    Args:
        checker: runs the suites.
        suites: all suites.
        declared: what ingest.json says of each site.
        judged: all cases with their facts.
        refused: cases that were refused, with their reasons.
        minimum: accepted cases under which a site is set aside.

    Returns:
        What became of each site, by id, and the outcomes.
    """
    records = [record for record, _ in judged]
    roles = {record.site: record.role for record in records} | {
        site: facts["role"] for site, facts in declared.items() if "role" in facts
    }
    kept = {record.case_id for record in records} - set(refused)
    least = {name: minimum(name) for name in sorted({*roles, *declared})}
    rows = [site_facts(n, declared.get(n, {}), roles.get(n, ""), judged, kept, least[n]) for n in least]
    outcomes = [o for suite in suites if suite.about == "site" for o in checker.run(suite, _table("site", rows))]
    sites: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = row["site"]
        counts = f"{row['accepted']} of {row['cases']} cases accepted, {least[name]} needed"
        broken = [o for o in outcomes if o.severity == "must" and name in o.failed]
        sites[name] = {
            "status": "set aside" if broken else "accepted",
            "reasons": [f"{o.code}: {counts}. Not met: {o.says}" for o in broken],
            "warnings": [],
            "cases": row["cases"],
            "accepted": 0 if broken else row["accepted"],
            "role": roles.get(name, ""),
            "minimum_cases": least[name],
            "facts": {fact: row[fact] for fact in FACTS["site"]},
            "remark": str(declared.get(name, {}).get("remark") or ""),
        }
    return sites, outcomes


def check_whole(
    checker: Checker, suites: list[Suite], whole: list[dict[str, Any]], drift: list[dict[str, Any]]
) -> list[Outcome]:
    """Judge what was accepted as a whole, and against the last accepted data set."""
    outcomes: list[Outcome] = []
    for suite in suites:
        if suite.about == "dataset":
            rows = [row for row in whole if suite.task in (None, row["part"])]
            outcomes += checker.run(suite, _table("dataset", rows))
        elif suite.about == "drift":
            rows = [row for row in drift if suite.modality in (None, row["modality"])]
            outcomes += checker.run(suite, _table("drift", rows))
    return outcomes


def warn(sites: dict[str, dict[str, Any]], outcomes: list[Outcome], records: list[CaseRecord]) -> None:
    """List every broken `warn` with the sites that it concerns."""
    site_of = {record.case_id: record.site for record in records}
    for outcome in outcomes:
        if outcome.severity != "warn":
            continue
        for name, site in sites.items():
            if name in outcome.failed:
                site["warnings"].append(f"{outcome.code}: {outcome.says}")
            elif count := sum(site_of.get(case) == name for case in outcome.failed):
                site["warnings"].append(f"{outcome.code}: {count} of {site['cases']} cases")
