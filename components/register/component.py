"""KFP component of the register step."""

from kfp import dsl

from components.kubeflow import component


@component("train")
def register(
    networks: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    pairs: dsl.Input[dsl.Dataset],
    tracking_uri: str,
    code_version: str,
    version: dsl.Output[dsl.Artifact],
    model_card: dsl.Output[dsl.Markdown],
) -> int:
    """Register the approved networks in MLflow with their lineage.

    Args:
        networks: the candidate's networks.
        evaluation: what evaluate gave.
        decision: what gate gave; must be an approval.
        pairs: what pair gave; names the data version.
        tracking_uri: MLflow tracking server or database.
        code_version: version of the code; empty for what the step's own image says.
        version: version.json, the lineage.
        model_card: what the model is for, made from and worth.

    Returns:
        Number of the registered version.
    """
    import shutil
    from pathlib import Path

    from components.command import configure, reported
    from components.register.step import RegisterConfig
    from components.register.step import register as run
    from components.train.environment import code_version as own_version

    out = Path(version.path)
    with reported("register"):
        result = run(
            sorted(path for path in Path(networks.path).iterdir() if path.is_dir()),
            Path(evaluation.path),
            Path(decision.path),
            Path(pairs.path),
            out,
            configure(
                RegisterConfig, {}, "register", tracking_uri=tracking_uri, code_version=code_version or own_version()
            ),
        )
    shutil.copyfile(out / "model_card.md", model_card.path)
    return int(result.version)
