"""KFP component of the export step."""

from kfp import dsl

from components.kubeflow import component


@component("export")
def export(
    networks: dsl.Input[dsl.Model],
    version: dsl.Input[dsl.Artifact],
    pairs: dsl.Input[dsl.Dataset],
    config: dict,
    exported: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Export the registered networks to ONNX and check each against torch in HU, SUV and MR units.

    Args:
        networks: the candidate's networks.
        version: what register gave.
        pairs: what pair gave; held-out slices for the check.
        config: parameters of the step (ExportConfig).
        exported: one folder per served model, and parity.json.
        metrics: largest difference per model.
    """
    from pathlib import Path

    from components.command import configure, reported
    from components.export.config import ExportConfig
    from components.export.step import export as run
    from components.kubeflow_outputs import describe_export, log_metrics

    with reported("export"):
        run(
            sorted(path for path in Path(networks.path).iterdir() if path.is_dir()),
            Path(version.path),
            Path(pairs.path),
            Path(exported.path),
            configure(ExportConfig, config, "export"),
        )
    log_metrics(metrics, describe_export(Path(exported.path)))
