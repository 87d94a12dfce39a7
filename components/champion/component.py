"""KFP components of the champion step: which version serves, asked in every run; its checkpoint, kept by version."""

from kfp import dsl

from components.kubeflow import component


@component("train")
def champion(networks: dsl.Input[dsl.Model], tracking_uri: str) -> str:
    """Ask which version serves now, so that the candidate can be measured beside it.

    Args:
        networks: the candidate's networks.
        tracking_uri: MLflow tracking server or database.

    Returns:
        Version of the champion; an empty text where there is none, or where it is the candidate.
    """
    import tempfile
    from pathlib import Path

    from components.champion.step import ChampionConfig
    from components.champion.step import champion as run
    from components.command import configure, reported

    with reported("champion"), tempfile.TemporaryDirectory() as scratch:
        settings = configure(ChampionConfig, {}, "champion", tracking_uri=tracking_uri)
        return run(Path(networks.path) / "unified", Path(scratch) / "checkpoint", settings).version


@component("train")
def fetch_champion(
    networks: dsl.Input[dsl.Model], version: str, tracking_uri: str, checkpoint: dsl.Output[dsl.Model]
) -> None:
    """Fetch the checkpoint of the version that serves.

    Args:
        networks: the candidate's networks.
        version: what champion said; empty for none.
        tracking_uri: MLflow tracking server or database.
        checkpoint: the champion's checkpoint; an empty folder where there is none.
    """
    from pathlib import Path

    from components.champion.step import ChampionConfig
    from components.champion.step import champion as run
    from components.command import configure, reported
    from mira.errors import RetryableError

    Path(checkpoint.path).mkdir(parents=True, exist_ok=True)
    if not version:
        return
    with reported("fetch-champion"):
        settings = configure(ChampionConfig, {}, "champion", tracking_uri=tracking_uri)
        found = run(Path(networks.path) / "unified", Path(checkpoint.path), settings).version
        if found != version:
            raise RetryableError(f"Version {found or 'none'} serves now instead of {version}. Run again.")
