"""Validate: declared expectations decide which cases and sites may go on."""

from pathlib import Path
from typing import Any

from pydantic import Field

from components.report.page import render
from components.validate.facts import CASE_FACTS, SITE_FACTS, case_facts, relate, site_facts
from components.validate.suites import Checker, Outcome, Suite, load_suites
from mira.cases import CaseRecord, Record, iterate_cases
from mira.errors import ConfigurationError, DataRejected
from mira.progress import track
from mira.storage import atomic_folder, read_json, write_json, write_text

ROOT = Path(__file__).resolve().parents[2]
PROFILED = ("noise", "minimum", "maximum", "slices", "smallest_side", "warnings")


class ValidateConfig(Record):
    """Parameters of the validate step."""

    suites: Path = Field(
        Path("data/expectations"), description="folder of expectation suites; relative to the repository's root"
    )
    minimum_cases: dict[str, int] = Field(
        default_factory=dict,
        description="site id -> accepted cases under which the site is set aside; overrides sites.yaml",
    )
    default_minimum_cases: int = Field(1, ge=0, description="the same for sites that neither sites.yaml nor this names")
    minimum_train_sites: int = Field(1, ge=0, description="accepted sites with role train that a run needs")
    minimum_local_sites: int = Field(1, ge=0, description="accepted sites with role local that a run needs")
    minimum_train_patients: int = Field(3, ge=0, description="patients of accepted train cases that a run needs")


class ValidateSummary(Record):
    """What validation let through."""

    accepted: int
    refused: int
    sites_accepted: list[str]
    sites_set_aside: list[str]
    warnings: int


def validate(cases: Path, out: Path, config: ValidateConfig) -> ValidateSummary:
    """Check every case and site against the declared suites.

    A case that breaks a `must` is refused; a site that breaks one, or has too few accepted cases, is set aside.
    The others go on. The results are written before an error is raised, so that they can be read.

    Args:
        cases: root of all cases, as ingest wrote it.
        out: folder for `validation.json`, `profile.json` and `docs/index.html`.
        config: parameters.

    Returns:
        Counts of what was accepted.

    Raises:
        ConfigurationError: for suites that cannot be read.
        DataRejected: when fewer sites or patients remain than the run's declared minimum.
    """
    folder = config.suites if config.suites.is_absolute() or config.suites.is_dir() else ROOT / config.suites
    if not folder.is_dir():
        raise ConfigurationError(f"There are no expectation suites at {config.suites}. Set `validate.suites`.")
    suites = load_suites(folder)
    declared = _declared_sites(cases)
    found = list(iterate_cases(cases))
    if not found and not declared:
        raise DataRejected(f"{cases} holds no cases. Run the ingest step first, and look at its quarantine.json.")

    records = [record for _, record in found]
    rows = [case_facts(path, record) for path, record in track(found, "validate", unit="case")]
    relate(rows, records)
    checker = Checker()
    outcomes, refused = _check_cases(checker, suites, rows, records)
    sites, site_outcomes = _check_sites(checker, suites, declared, records, refused, config)
    outcomes += site_outcomes
    for record in records:
        if sites[record.site]["status"] == "set aside" and record.case_id not in refused:
            refused[record.case_id] = [f"site-set-aside: site {record.site} was set aside as a whole"]
    _warn(sites, outcomes, records)

    accepted = sorted(record.case_id for record in records if record.case_id not in refused)
    shortages = _shortages(sites, records, set(accepted), config)
    result = {
        "accepted": accepted,
        "refused": refused,
        "sites": sites,
        "expectations": [outcome.model_dump() | {"status": outcome.status} for outcome in outcomes],
        "gx_version": checker.version,
        "shortages": shortages,
    }
    profile = _profile(rows, set(accepted))
    with atomic_folder(out) as new:
        write_json(new / "validation.json", result)
        write_json(new / "profile.json", profile)
        write_text(new / "docs" / "index.html", _docs(result, profile, outcomes))
    if shortages:
        raise DataRejected(" ".join(shortages) + f" The reasons are in {out / 'docs' / 'index.html'}.")
    return ValidateSummary(
        accepted=len(accepted),
        refused=len(refused),
        sites_accepted=sorted(s for s, v in sites.items() if v["status"] == "accepted"),
        sites_set_aside=sorted(s for s, v in sites.items() if v["status"] == "set aside"),
        warnings=sum(outcome.status == "warn" for outcome in outcomes),
    )


def _declared_sites(cases: Path) -> dict[str, dict[str, Any]]:
    """What ingest.json says of each site; empty for cases that were collected in another way."""
    path = cases / "ingest.json"
    if not path.is_file():
        return {}
    sites = read_json(path).get("sites", {})
    if isinstance(sites, list):
        sites = {site["id"]: site for site in sites}
    return dict(sites)


def _check_cases(
    checker: Checker, suites: list[Suite], rows: list[dict[str, Any]], records: list[CaseRecord]
) -> tuple[list[Outcome], dict[str, list[str]]]:
    import pandas as pd

    table = pd.DataFrame(rows, columns=["case_id", "site", "modality", "role", *CASE_FACTS])
    outcomes: list[Outcome] = []
    for suite in (s for s in suites if s.about == "case"):
        part = table if suite.modality is None else table[table["modality"] == suite.modality.value]
        outcomes += checker.run(suite, part.reset_index(drop=True), "case_id")
    refusals = {record.case_id: record.task_refusals for record in records}
    refused: dict[str, list[str]] = {}
    for outcome in outcomes:
        for case_id in outcome.failed if outcome.severity == "must" else []:
            why = "; ".join(refusals[case_id].values()) if outcome.fact == "has_task" else ""
            refused.setdefault(case_id, []).append(f"{outcome.code}: {why or 'not met: ' + outcome.says}")
    return outcomes, refused


def _check_sites(
    checker: Checker,
    suites: list[Suite],
    declared: dict[str, dict[str, Any]],
    records: list[CaseRecord],
    refused: dict[str, list[str]],
    config: ValidateConfig,
) -> tuple[dict[str, dict[str, Any]], list[Outcome]]:
    import pandas as pd

    roles = {record.site: record.role for record in records} | {
        site: facts["role"] for site, facts in declared.items() if "role" in facts
    }
    minimum = {site: int(facts.get("minimum_cases", config.default_minimum_cases)) for site, facts in declared.items()}
    minimum |= config.minimum_cases
    kept = {record.case_id for record in records} - set(refused)
    names = sorted({*roles, *declared})
    rows = [
        site_facts(name, roles.get(name, ""), records, kept, minimum.get(name, config.default_minimum_cases))
        for name in names
    ]
    table = pd.DataFrame(rows)
    outcomes = [o for suite in suites if suite.about == "site" for o in checker.run(suite, table, "site")]
    sites: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = row["site"]
        least = minimum.get(name, config.default_minimum_cases)
        counts = f"{row['accepted']} of {row['cases']} cases accepted, {least} needed"
        broken = [o for o in outcomes if o.severity == "must" and name in o.failed]
        sites[name] = {
            "status": "set aside" if broken else "accepted",
            "reasons": [f"{o.code}: {counts}. Not met: {o.says}" for o in broken],
            "warnings": [],
            "cases": row["cases"],
            "accepted": 0 if broken else row["accepted"],
            "role": roles.get(name, ""),
            "minimum_cases": least,
            "remark": str(declared.get(name, {}).get("remark") or ""),
        }
    return sites, outcomes


def _warn(sites: dict[str, dict[str, Any]], outcomes: list[Outcome], records: list[CaseRecord]) -> None:
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


def _shortages(
    sites: dict[str, dict[str, Any]], records: list[CaseRecord], accepted: set[str], config: ValidateConfig
) -> list[str]:
    shortages = []
    for role, least in (("train", config.minimum_train_sites), ("local", config.minimum_local_sites)):
        own = {name: site for name, site in sites.items() if site["role"] == role}
        good = sum(site["status"] == "accepted" for site in own.values())
        if good < least:
            reasons = "; ".join(
                f"{name}: {', '.join(site['reasons'])}" for name, site in own.items() if site["reasons"]
            )
            shortages.append(
                f"{good} sites with role {role} are usable, but the run needs {least} (`minimum_{role}_sites`)."
                + (f" Set aside: {reasons}." if reasons else " Add one to sites.yaml.")
            )
    patients = {record.patient for record in records if record.role == "train" and record.case_id in accepted}
    if len(patients) < config.minimum_train_patients:
        shortages.append(
            f"{len(patients)} patients can be trained on, but the run needs {config.minimum_train_patients} "
            "(`minimum_train_patients`): training, validation and test must not share one. Add cases."
        )
    return shortages


def _profile(rows: list[dict[str, Any]], accepted: set[str]) -> list[dict[str, Any]]:
    """Distribution of the numeric facts per site and modality, over accepted cases."""
    import numpy as np

    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["case_id"] in accepted:
            groups.setdefault((row["site"], row["modality"]), []).append(row)
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


def _docs(result: dict[str, Any], profile: list[dict[str, Any]], outcomes: list[Outcome]) -> str:
    suites: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        suites.setdefault(outcome.suite, []).append(outcome)
    return render(
        Path(__file__).with_name("docs.html"),
        gx_version=result["gx_version"],
        accepted=len(result["accepted"]),
        delivered=len(result["accepted"]) + len(result["refused"]),
        usable=not result["shortages"],
        shortages=result["shortages"],
        sites=[{"id": name, **site} for name, site in result["sites"].items()],
        refused=result["refused"],
        suites=suites,
        profile=profile,
        facts=CASE_FACTS | SITE_FACTS,
    )
