"""KFP components of the promote step: the check at the beginning of a run, and the promotion at its end."""

from kfp import dsl

from components.kubeflow import component


@component("promote")
def check_triton(triton_url: str, workspace: str, repository: str) -> None:
    """Check that there is a Triton to promote to, before the hours of training.

    Args:
        triton_url: HOST:PORT of the Triton that serves the repository; `embedded` for one that promote starts itself.
        workspace: folder that holds the serving state and the audit trail.
        repository: the Triton model repository.
    """
    from pathlib import Path

    from components.command import reported
    from components.promote.paths import ServingPaths
    from components.promote.where import check

    with reported("check-triton"):
        check(ServingPaths(workspace=Path(workspace), repository=Path(repository)), triton_url)


@component("promote")
def promote(
    exported: dsl.Input[dsl.Model],
    version: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    tracking_uri: str,
    workspace: str,
    repository: str,
    triton_url: str,
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
        triton_url: HOST:PORT of the Triton that serves the repository; `embedded` for one that is started here.
        config: other parameters of the step (PromoteConfig).
        promotion: promotion.json.

    Returns:
        Address of the Triton server that serves it, HOST:PORT.
    """
    from pathlib import Path

    from components.command import configure, reported
    from components.promote.step import PromoteConfig
    from components.promote.step import promote_of_run as run
    from components.promote.where import url_of

    with reported("promote"):
        settings = configure(
            PromoteConfig,
            config,
            "promote",
            tracking_uri=tracking_uri,
            workspace=workspace,
            repository=repository,
            url=url_of(triton_url),
        )
        result = run(Path(exported.path), Path(version.path), Path(decision.path), Path(promotion.path), settings)
    return str(result.url)
