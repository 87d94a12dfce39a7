"""KFP components of the train step: training itself, and gathering the networks that were trained side by side."""

from typing import List  # noqa: UP035  (kfp 2.17 knows lists of artifacts by this name only)

from kfp import dsl

from components.kubeflow import component


@component("train")
def train(
    pairs: dsl.Input[dsl.Dataset],
    network: str,
    size: str,
    steps_per_task: int,
    learning_rate: float,
    seed: int,
    start_from: str,
    start_sha256: str,
    tracking_uri: str,
    workspace: str,
    config: dict,
    model: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
) -> None:
    """Train one network and log the run in MLflow; a killed training goes on from its last checkpoint.

    Args:
        pairs: what pair gave.
        network: `unified`, or the task of a single-task network.
        size: tiny, small or base.
        steps_per_task: optimiser steps for each task; the unified network takes this many times its tasks.
        learning_rate: peak learning rate of AdamW.
        seed: seed of weights, patches and order.
        start_from: weights to begin from: empty for none, `released`, a checkpoint folder, or an address in MLflow.
        start_sha256: SHA-256 of those weights, part of the cache's key; empty for any.
        tracking_uri: MLflow tracking server or database.
        workspace: folder on a shared volume where unfinished trainings keep their checkpoints.
        config: other parameters of the step (TrainConfig).
        model: weights as safetensors with their configuration.
        metrics: final figures.
    """
    import json
    from pathlib import Path

    from components.command import configure, reported
    from components.export.config import check_served
    from components.kubeflow_outputs import log_metrics
    from components.train.step import TrainConfig
    from components.train.step import train as run

    model.metadata["network"] = network
    with reported(f"train {network}"):
        settings = configure(
            TrainConfig,
            config,
            "train",
            size=size,
            steps_per_task=steps_per_task,
            learning_rate=learning_rate,
            seed=seed,
            start_from=start_from,
            start_sha256=start_sha256,
            tracking_uri=tracking_uri,
            work_dir=str(Path(workspace) / "training") if workspace else "",
        )
        check_served(settings.slices)  # what the pipeline trains, it exports
        run(Path(pairs.path), network, Path(model.path), settings)
    training = json.loads((Path(model.path) / "training.json").read_text(encoding="utf-8"))
    log_metrics(metrics, {name: value for name, value in training.items() if isinstance(value, int | float)})


@component("train")
def gather(models: dsl.Input[List[dsl.Model]], networks: dsl.Output[dsl.Model]) -> None:  # noqa: UP006
    """Put the networks of one run into one folder each, named by network.

    Args:
        models: one trained network each.
        networks: folder with a checkpoint folder per network.
    """
    import json
    import shutil
    from pathlib import Path

    for model in models:
        network = json.loads((Path(model.path) / "config.json").read_text(encoding="utf-8"))["network"]
        shutil.copytree(model.path, Path(networks.path) / network)
