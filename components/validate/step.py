"""Validate: declared expectations decide which cases and sites may go on."""

from pathlib import Path
from typing import Any

from pydantic import Field

from components.validate.docs import data_docs, drifted_rows, quantiles
from components.validate.drift import FORMAT, Baseline, compare, distributions, read_baseline
from components.validate.facts import case_facts
from components.validate.judge import Judged, check_cases, check_sites, check_whole, warn
from components.validate.relations import dataset_facts, mix, relate
from components.validate.suites import Checker, load_suites
from mira.cases import CaseRecord, Record, iterate_cases
from mira.errors import ConfigurationError, DataRejected
from mira.pairs import Split, read_index
from mira.progress import track
from mira.storage import atomic_folder, read_json, write_json, write_text

ROOT = Path(__file__).resolve().parents[2]


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
    baseline: Path | None = Field(
        None, description="profile.json (or its folder) of the last accepted data set, which drift is measured against"
    )
    previous: Path | None = Field(
        None, description="an earlier pairs.json (or its folder), whose patients must keep to their splits"
    )


class ValidateSummary(Record):
    """What validation let through.

    Attributes:
        accepted: cases that go on.
        refused: cases that do not.
        sites_accepted: sites that go on.
        sites_set_aside: sites that do not.
        warnings: expectations that warn.
        drifted: features that drifted from the last accepted data set.
    """

    accepted: int
    refused: int
    sites_accepted: list[str]
    sites_set_aside: list[str]
    warnings: int
    drifted: int = 0


def validate(cases: Path, out: Path, config: ValidateConfig) -> ValidateSummary:
    """Check every case and site against the declared suites.

    A case that breaks a `must` is refused; a site that breaks one, or has too few accepted cases, is set aside.
    The others go on. What is accepted is then judged as a whole, and against the last accepted data set. The results
    are written before an error is raised, so that they can be read.

    Args:
        cases: root of all cases, as ingest wrote it.
        out: folder for `validation.json`, `profile.json` and `docs/index.html`.
        config: parameters.

    Returns:
        Counts of what was accepted.

    Raises:
        ConfigurationError: for suites, a baseline or earlier pairs that cannot be read.
        DataRejected: when fewer sites or patients remain than the run's declared minimum, or the accepted cases break
            a `must` as a whole.
    """
    folder = config.suites if config.suites.is_absolute() or config.suites.is_dir() else ROOT / config.suites
    if not folder.is_dir():
        raise ConfigurationError(f"There are no expectation suites at {config.suites}. Set `validate.suites`.")
    suites = load_suites(folder)
    baseline = read_baseline(config.baseline) if config.baseline is not None else None
    splits = _earlier_splits(config.previous)
    declared = _declared_sites(cases)
    found = list(iterate_cases(cases))
    if not found and not declared:
        raise DataRejected(f"{cases} holds no cases. Run the ingest step first, and look at its quarantine.json.")

    judged: Judged = [(record, case_facts(path, record)) for path, record in track(found, "validate", unit="case")]
    records = [record for record, _ in judged]
    relate([row for _, row in judged], records, splits)

    def minimum(site: str) -> int:
        sent = int(declared.get(site, {}).get("minimum_cases", config.default_minimum_cases))
        return config.minimum_cases.get(site, sent)

    checker = Checker()
    outcomes, refused = check_cases(checker, suites, judged)
    sites, site_outcomes = check_sites(checker, suites, declared, judged, refused, minimum)
    for record in records:
        if sites[record.site]["status"] == "set aside" and record.case_id not in refused:
            refused[record.case_id] = [f"site-set-aside: site {record.site} was set aside as a whole"]
    warn(sites, [*outcomes, *site_outcomes], records)

    kept = [(record, row) for record, row in judged if record.case_id not in refused]
    whole = dataset_facts(kept, splits)
    outlook = distributions(kept)
    drift = compare(baseline.distributions, outlook) if baseline is not None else []
    whole_outcomes = check_whole(checker, suites, whole, drift)
    outcomes += [*site_outcomes, *whole_outcomes]
    broken = [o for o in whole_outcomes if o.status == "fail"]
    shortages = _shortages(sites, [record for record, _ in kept], config)
    shortages += [f"{o.code}, {', '.join(o.failed)}: not met: {o.says}" for o in broken]
    result = {
        "accepted": sorted(record.case_id for record, _ in kept),
        "refused": refused,
        "sites": sites,
        "dataset": whole,
        "mix": mix(record for record, _ in kept),
        "drift": drift,
        "baseline": baseline is not None,
        "expectations": [outcome.model_dump() | {"status": outcome.status} for outcome in outcomes],
        "gx_version": checker.version,
        "shortages": shortages,
    }
    profile = Baseline(format=FORMAT, usable=not shortages, sites=quantiles(kept), distributions=outlook)
    with atomic_folder(out) as new:
        write_json(new / "validation.json", result)
        write_json(new / "profile.json", profile.model_dump())
        write_text(new / "docs" / "index.html", data_docs(result, profile.sites, suites, outcomes))
    if shortages:
        raise DataRejected(" ".join(shortages) + f" The reasons are in {out / 'docs' / 'index.html'}.")
    return ValidateSummary(
        accepted=len(kept),
        refused=len(refused),
        sites_accepted=sorted(s for s, v in sites.items() if v["status"] == "accepted"),
        sites_set_aside=sorted(s for s, v in sites.items() if v["status"] == "set aside"),
        warnings=sum(outcome.status == "warn" for outcome in outcomes),
        drifted=len(drifted_rows(outcomes)),
    )


def _earlier_splits(previous: Path | None) -> dict[str, set[Split]]:
    """Splits of each patient in earlier pairs."""
    if previous is None:
        return {}
    splits: dict[str, set[Split]] = {}
    for pair in read_index(previous.parent if previous.suffix == ".json" else previous).pairs:
        splits.setdefault(pair.patient, set()).add(pair.split)
    return splits


def _declared_sites(cases: Path) -> dict[str, dict[str, Any]]:
    """What ingest.json says of each site; empty for cases that were collected in another way."""
    path = cases / "ingest.json"
    if not path.is_file():
        return {}
    sites = read_json(path).get("sites", {})
    if isinstance(sites, list):
        sites = {site["id"]: site for site in sites}
    return dict(sites)


def _shortages(sites: dict[str, dict[str, Any]], accepted: list[CaseRecord], config: ValidateConfig) -> list[str]:
    """What the run's declared minimum lacks."""
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
    patients = {record.patient for record in accepted if record.role == "train"}
    if len(patients) < config.minimum_train_patients:
        shortages.append(
            f"{len(patients)} patients can be trained on, but the run needs {config.minimum_train_patients} "
            "(`minimum_train_patients`): training, validation and test must not share one. Add cases."
        )
    return shortages
