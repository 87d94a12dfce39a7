"""KFP component of the validate step."""

from kfp import dsl

from components.kubeflow import component


@component("validate")
def validate(
    cases: dsl.Input[dsl.Dataset],
    config: dict,
    validation: dsl.Output[dsl.Dataset],
    data_docs: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Check the cases with Great Expectations; a bad case or site is set aside, the others go on.

    Args:
        cases: what ingest gave.
        config: parameters of the step (ValidateConfig).
        validation: validation.json, profile.json and the Data Docs.
        data_docs: the Data Docs as one page.
        metrics: counts.
    """
    import shutil
    from pathlib import Path

    from components.command import configure, reported
    from components.kubeflow_outputs import describe_validation, log_metrics
    from components.validate.step import ValidateConfig
    from components.validate.step import validate as run

    out = Path(validation.path)
    with reported("validate"):
        run(Path(cases.path), out, configure(ValidateConfig, config, "validate"))
    shutil.copyfile(out / "docs" / "index.html", data_docs.path)
    log_metrics(metrics, describe_validation(out))
