"""KFP component of the ingest step."""

from kfp import dsl

from components.kubeflow import component


@component("data")
def ingest(
    sites_file: str,
    data_fingerprint: str,
    code_version: str,
    workspace: str,
    config: dict,
    cases: dsl.Output[dsl.Dataset],
    summary: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Read the sites' DICOM into de-identified cases; what cannot be used is listed with its reason.

    Args:
        sites_file: path of sites.yaml on the volume that holds the sites' DICOM.
        data_fingerprint: hash of the sites' files; a new one makes a cached ingest run again.
        code_version: version of the code; a new one makes a cached ingest run again.
        workspace: folder on the shared volume; its `cases` keep what earlier runs took in, so that only new series are
            read.
        config: parameters of the step (IngestConfig).
        cases: the cases, cases.parquet and quarantine.json.
        summary: table of what came in and what was refused.
        metrics: counts.
    """
    from pathlib import Path

    from components.command import configure, reported
    from components.ingest.step import IngestConfig
    from components.ingest.step import ingest as run
    from components.kubeflow_outputs import describe_ingest, log_metrics

    with reported("ingest"):
        run(Path(sites_file), Path(cases.path), configure(IngestConfig, config, "ingest", store=f"{workspace}/cases"))
        text, figures = describe_ingest(Path(cases.path))
    Path(summary.path).write_text(text, encoding="utf-8")
    log_metrics(metrics, figures)
