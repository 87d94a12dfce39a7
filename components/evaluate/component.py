"""KFP component of the evaluate step."""

from kfp import dsl

from components.kubeflow import component


@component("evaluate")
def evaluate(
    pairs: dsl.Input[dsl.Dataset],
    networks: dsl.Input[dsl.Model],
    champion: dsl.Input[dsl.Model],
    champion_version: str,
    config: dict,
    evaluation: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Measure every network on test patients and on the local sites, beside the degraded input.

    Args:
        pairs: what pair gave.
        networks: the candidate's networks.
        champion: checkpoint of the network that serves now.
        champion_version: its version; empty where there is none.
        config: parameters of the step (EvaluateConfig).
        evaluation: metrics.json, cases.parquet and pictures.
        page: tables and pictures.
        metrics: gains in dB by task.
    """
    import shutil
    from pathlib import Path

    from components.command import configure, reported
    from components.evaluate.step import EvaluateConfig
    from components.evaluate.step import evaluate as run
    from components.kubeflow_outputs import describe_evaluation, log_metrics

    out = Path(evaluation.path)
    with reported("evaluate"):
        run(
            Path(pairs.path),
            sorted(path for path in Path(networks.path).iterdir() if path.is_dir()),
            Path(champion.path) if champion_version else None,
            out,
            configure(EvaluateConfig, config, "evaluate"),
        )
    shutil.copyfile(out / "report.html", page.path)
    log_metrics(metrics, describe_evaluation(out))
