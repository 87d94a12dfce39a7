"""KFP component of the champion step."""

from kfp import dsl

from components.kubeflow import component


@component("train")
def champion(
    networks: dsl.Input[dsl.Model], tracking_uri: str, code_version: str, checkpoint: dsl.Output[dsl.Model]
) -> str:
    """Fetch the network that serves now, so that the candidate can be measured beside it.

    Args:
        networks: the candidate's networks.
        tracking_uri: MLflow tracking server or database.
        code_version: version of the code.
        checkpoint: the champion's checkpoint; an empty folder where there is none, or where it is the candidate.

    Returns:
        Version of the champion, or an empty text.
    """
    from pathlib import Path

    from components.champion.step import ChampionConfig
    from components.champion.step import champion as run
    from components.command import configure, reported

    Path(checkpoint.path).mkdir(parents=True, exist_ok=True)
    with reported("champion"):
        settings = configure(ChampionConfig, {}, "champion", tracking_uri=tracking_uri)
        return run(Path(networks.path) / "unified", Path(checkpoint.path), settings).version
