"""KFP component of the pair step."""

from kfp import dsl

from components.kubeflow import component


@component("physics")
def pair(
    cases: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    seed: int,
    config: dict,
    pairs: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
) -> list[str]:
    """Make (degraded, reference) pairs by the physics simulators, split by patient.

    Args:
        cases: what ingest gave.
        validation: what validate gave; only accepted cases are paired.
        seed: seed of splits and noise.
        config: other parameters of the step (PairConfig).
        pairs: the pairs and pairs.json.
        metrics: counts.

    Returns:
        The networks that these pairs can train, the unified one first since it takes longest.
    """
    from pathlib import Path

    from components.command import configure, reported
    from components.kubeflow_outputs import log_metrics
    from components.pair.step import PairConfig
    from components.pair.step import pair as run

    with reported("pair"):
        result = run(
            Path(cases.path), Path(validation.path), Path(pairs.path), configure(PairConfig, config, "pair", seed=seed)
        )
    log_metrics(metrics, result.counts)
    return ["unified", *(str(task) for task in result.tasks)]
