"""KFP component of the promote step."""

from kfp import dsl

from components.kubeflow import component


@component("promote")
def promote(
    exported: dsl.Input[dsl.Model],
    version: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    tracking_uri: str,
    workspace: str,
    repository: str,
    config: dict,
    promotion: dsl.Output[dsl.Artifact],
) -> str:
    """Put the exported networks behind Triton, prove them by real requests, then move the champion alias.

    Args:
        exported: what export gave.
        version: what register gave.
        decision: what gate gave.
        tracking_uri: MLflow tracking server or database.
        workspace: folder that holds the serving state and the audit trail.
        repository: the Triton model repository.
        config: other parameters of the step (PromoteConfig).
        promotion: promotion.json.

    Returns:
        Address of the Triton server that serves it, HOST:PORT.
    """
    from pathlib import Path

    from components.command import configure, reported
    from components.promote.step import PromoteConfig
    from components.promote.step import promote as run

    with reported("promote"):
        settings = configure(
            PromoteConfig, config, "promote", tracking_uri=tracking_uri, workspace=workspace, repository=repository
        )
        result = run(Path(exported.path), Path(version.path), Path(decision.path), Path(promotion.path), settings)
    return str(result.url)
