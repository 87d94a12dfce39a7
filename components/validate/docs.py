"""The Data Docs: one page of results and figures that stands alone."""

from pathlib import Path
from typing import Any

from components.report.page import render
from components.validate.judge import Judged
from components.validate.suites import FACTS, Outcome, Suite

PROFILED = ("noise", "minimum", "maximum", "slices", "smallest_side", "warnings")
STATES = ("fail", "warn", "pass", "not applicable")


def quantiles(kept: Judged) -> list[dict[str, Any]]:
    """Quantiles of the numeric facts per site and modality, over accepted cases."""
    import numpy as np

    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for record, row in kept:
        groups.setdefault((record.site, record.modality.value), []).append(row)
    profile = []
    for (site, modality), members in sorted(groups.items()):
        figures: dict[str, dict[str, float | None]] = {}
        for fact in PROFILED:
            values = np.array([row[fact] for row in members if row.get(fact) is not None], dtype=float)
            names = ("minimum", "lower_quartile", "median", "upper_quartile", "maximum")
            quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1]) if values.size else [None] * 5
            figures[fact] = {n: None if q is None else float(q) for n, q in zip(names, quantiles, strict=True)}
        profile.append({"site": site, "modality": modality, "cases": len(members), "figures": figures})
    return profile


def drifted_rows(outcomes: list[Outcome]) -> set[str]:
    """Ids of the features that broke an expectation about drift."""
    return {row for outcome in outcomes if outcome.about == "drift" for row in outcome.failed}


def data_docs(
    result: dict[str, Any], profile: list[dict[str, Any]], suites: list[Suite], outcomes: list[Outcome]
) -> str:
    """The Data Docs: one page that stands alone."""
    ordered = sorted(outcomes, key=lambda outcome: STATES.index(outcome.status))  # what somebody should look at first
    by_suite = [(suite, [o for o in ordered if o.suite == suite.name]) for suite in suites]
    drifted = drifted_rows(outcomes)
    return render(
        Path(__file__).with_name("docs.html"),
        gx_version=result["gx_version"],
        accepted=len(result["accepted"]),
        delivered=len(result["accepted"]) + len(result["refused"]),
        shortages=result["shortages"],
        sites=[{"id": name, **site} for name, site in result["sites"].items()],
        refused=result["refused"],
        dataset=result["dataset"],
        dataset_outcomes=[o for o in outcomes if o.about == "dataset" and o.failed],
        baseline=result["baseline"],
        drifted=[row for row in result["drift"] if row["id"] in drifted],
        steady=[row for row in result["drift"] if row["id"] not in drifted],
        mix=result["mix"],
        suites=by_suite,
        profile=profile,
        facts=FACTS,
    )
