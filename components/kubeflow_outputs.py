"""What the Kubeflow UI shows beside a step: short tables and the figures worth comparing between runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mira.storage import read_json, write_json


class MetricsArtifact(Protocol):
    """The part of `kfp.dsl.Metrics` that is used."""

    path: str

    def log_metric(self, metric: str, value: float) -> None:
        """Note one figure."""


def log_metrics(metrics: MetricsArtifact, figures: Mapping[str, float]) -> None:
    """Note figures for the UI, and write them to the artifact's file.

    Without a file the local runner takes the whole step for lost, and runs it again instead of re-using it.
    """
    for name, value in figures.items():
        metrics.log_metric(name, value)
    write_json(Path(metrics.path), dict(figures))


def describe_ingest(cases: Path) -> tuple[str, dict[str, float]]:
    """Markdown table of the sites and counts, from `ingest.json`."""
    sites: dict[str, dict[str, Any]] = read_json(cases / "ingest.json")["sites"]
    rows = ["| site | role | files | series | cases | refused |", "|---|---|---|---|---|---|"]
    for name, site in sorted(sites.items()):
        refused = sum(site["refused"].values())
        rows.append(f"| {name} | {site['role']} | {site['files']} | {site['series']} | {site['cases']} | {refused} |")
    figures = {
        "files": float(sum(site["files"] for site in sites.values())),
        "cases": float(sum(site["cases"] for site in sites.values())),
        "refused": float(sum(sum(site["refused"].values()) for site in sites.values())),
    }
    return "\n".join(rows) + "\n", figures


def describe_validation(validation: Path) -> dict[str, float]:
    """Counts of accepted and refused cases and sites, from `validation.json`."""
    result = read_json(validation / "validation.json")
    sites = result["sites"].values()
    return {
        "accepted_cases": float(len(result["accepted"])),
        "refused_cases": float(len(result["refused"])),
        "accepted_sites": float(sum(site["status"] == "accepted" for site in sites)),
        "sites_set_aside": float(sum(site["status"] != "accepted" for site in sites)),
    }


def describe_evaluation(evaluation: Path) -> dict[str, float]:
    """The compact summary of `metrics.json`, as `task.split.figure`."""
    summary = read_json(evaluation / "metrics.json")["summary"]
    return {
        f"{task}.{split}.{figure}": float(value)
        for task, splits in summary.items()
        for split, figures in splits.items()
        for figure, value in figures.items()
        if value is not None
    }


def describe_export(exported: Path) -> dict[str, float]:
    """Largest difference between torch and ONNX Runtime per served model, from `parity.json`."""
    models: dict[str, dict[str, Any]] = read_json(exported / "parity.json")["models"]
    return {f"{name}.largest_difference": float(model["largest_difference"]) for name, model in models.items()}
