"""The factory as a Kubeflow pipeline: the one training graph, in a cluster and on a laptop.

`python -m pipelines.compile` writes it to `pipelines/compiled/`. Defaults come from `params.yaml` and
`pipelines/policy.yaml`, so that the Kubeflow UI shows what a person would find in the repository.
"""

import json
from pathlib import Path
from typing import Any

import yaml
from kfp import dsl, kubernetes

from components.champion.component import champion, fetch_champion
from components.evaluate.component import evaluate
from components.export.component import export
from components.gate.component import gate
from components.ingest.component import ingest
from components.pair.component import pair
from components.promote.component import check_triton, promote
from components.register.component import register
from components.report.component import report
from components.restore.component import restore
from components.train.component import gather, train
from components.validate.component import validate

ROOT = Path(__file__).resolve().parent.parent
# one line of JSON, which is YAML too: kfp writes defaults into a comment and does not escape line ends
POLICY = json.dumps(yaml.safe_load((ROOT / "pipelines" / "policy.yaml").read_text(encoding="utf-8")))
PARAMETERS: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
TRAIN = PARAMETERS["train"]
# parameters of train that have a field of their own
SHARED = ("size", "steps_per_task", "learning_rate", "seed", "start_from")
TRAIN_REST = {key: value for key, value in TRAIN.items() if key not in SHARED}
PAIR_REST = {key: value for key, value in PARAMETERS["pair"].items() if key != "seed"}

SITES_MOUNT, SITES_CLAIM = "/sites", "mira-sites"
WORKSPACE_MOUNT, WORKSPACE_CLAIM = "/mira", "mira-workspace"
KEY_SECRET = "mira-pseudonym-key"  # noqa: S105  (name of a secret, not a secret)
SIGNING_SECRET = "mira-signing-key"  # noqa: S105


def _mounted(task: dsl.PipelineTask, *, sites: bool = False, workspace: bool = False) -> dsl.PipelineTask:
    """Mount the volumes that a step needs; the local runner has the folders themselves and ignores this."""
    if sites:
        kubernetes.mount_pvc(task, pvc_name=SITES_CLAIM, mount_path=SITES_MOUNT)
    if workspace:
        kubernetes.mount_pvc(task, pvc_name=WORKSPACE_CLAIM, mount_path=WORKSPACE_MOUNT)
    return task


@dsl.pipeline(name="mira-factory", description="Multi-site DICOM in, a served and clinically checked model out.")
def factory(
    triton_url: str,  # without a default: Kubeflow starts no run that does not say where to serve
    sites_file: str = f"{SITES_MOUNT}/sites.yaml",
    workspace: str = WORKSPACE_MOUNT,
    repository: str = f"{WORKSPACE_MOUNT}/triton_repo",
    tracking_uri: str = "http://mlflow.mlflow.svc:5000",
    size: str = TRAIN["size"],
    steps_per_task: int = TRAIN["steps_per_task"],
    learning_rate: float = TRAIN["learning_rate"],
    seed: int = TRAIN["seed"],
    start_from: str = TRAIN["start_from"],
    start_sha256: str = "",
    policy: str = POLICY,
    ingest_config: dict = PARAMETERS["ingest"],
    validate_config: dict = PARAMETERS["validate"],
    pair_config: dict = PAIR_REST,
    train_config: dict = TRAIN_REST,
    evaluate_config: dict = PARAMETERS["evaluate"],
    export_config: dict = PARAMETERS["export"],
    promote_config: dict = PARAMETERS["promote"],
    restore_config: dict = PARAMETERS["restore"],
    data_fingerprint: str = "",
    code_version: str = "",
) -> str:
    """Ingest, validate, pair, train, evaluate, gate; and if the gate approves: register, export, promote, restore.

    Args:
        triton_url: HOST:PORT of the Triton that serves the repository and that networks are promoted to; `embedded`, as
            `mira run` gives, only where the whole run is on one machine.
        sites_file: sites.yaml on the volume that holds the sites' DICOM; names each site, its role and its folder.
        workspace: Folder on the shared volume for what outlives a run: serving state, audit trail, restored series.
        repository: Triton model repository that the promoted networks are put into.
        tracking_uri: MLflow tracking server or database.
        size: Size of the networks: tiny (CPU, minutes), small or base (GPU).
        steps_per_task: Optimiser steps for each task; the unified network takes this many for every task it learns.
        learning_rate: Peak learning rate of AdamW.
        seed: Seed of splits, simulated noise, weights and patch order.
        start_from: Weights to begin from: empty for none, `released` for those that come with the project, a checkpoint
            folder on the workspace's volume, or a checkpoint in MLflow (models:/mira_net/3, models:/mira_net@champion).
        start_sha256: SHA-256 of those weights; when given, others are refused. Caching sees this and not the file.
        policy: The gate policy (YAML): rules a candidate must pass, with threshold, unit and source.
        ingest_config: Other parameters of ingest, as JSON.
        validate_config: Other parameters of validate, as JSON, such as the minimum numbers of sites.
        pair_config: Other parameters of pair, as JSON, such as the dose, count and resolution levels, or `previous`:
            the pairs.json of the network that serves, on the workspace's volume, so that patients keep their splits.
        train_config: Other parameters of train, as JSON, such as batch and patch size.
        evaluate_config: Other parameters of evaluate, as JSON, such as the metric profiles.
        export_config: Other parameters of export, as JSON, such as the tolerances.
        promote_config: Other parameters of promote, as JSON, such as the kind of approval.
        restore_config: Other parameters of restore, as JSON.
        data_fingerprint: Hash of the sites' files; give a new value when new data came, or caching re-uses the old.
        code_version: Version of the code; a new value runs every step again. Empty: that of the images is recorded.

    Returns:
        `approved` or `refused`.
    """
    checked = _mounted(check_triton(triton_url=triton_url, workspace=workspace, repository=repository), workspace=True)
    checked.set_caching_options(False)  # it asks whether that Triton answers
    ingested = _mounted(
        ingest(
            sites_file=sites_file,
            data_fingerprint=data_fingerprint,
            code_version=code_version,
            workspace=workspace,
            config=ingest_config,
        ),
        sites=True,
        workspace=True,
    )
    ingested.after(checked)
    kubernetes.use_secret_as_env(ingested, secret_name=KEY_SECRET, secret_key_to_env={"key": "MIRA_PSEUDONYM_KEY"})
    cases = ingested.outputs["cases"]
    # both may be given files of an earlier run, which lie on the workspace's volume
    validated = _mounted(validate(cases=cases, config=validate_config), workspace=True)
    validation = validated.outputs["validation"]
    paired = _mounted(pair(cases=cases, validation=validation, seed=seed, config=pair_config), workspace=True)
    paired.set_cpu_request("2").set_memory_request("4G")
    pairs = paired.outputs["pairs"]

    with dsl.ParallelFor(paired.outputs["Output"], name="networks") as network:
        trained = _mounted(
            train(
                pairs=pairs,
                network=network,
                size=size,
                steps_per_task=steps_per_task,
                learning_rate=learning_rate,
                seed=seed,
                start_from=start_from,
                start_sha256=start_sha256,
                tracking_uri=tracking_uri,
                workspace=workspace,
                config=train_config,
            ),
            workspace=True,
        )
        trained.set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)
        kubernetes.add_toleration(trained, key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")
    networks = gather(models=dsl.Collected(trained.outputs["model"])).outputs["networks"]

    current = champion(networks=networks, tracking_uri=tracking_uri)
    current.set_caching_options(False)  # another run may have moved the alias since
    fetched = fetch_champion(networks=networks, version=current.output, tracking_uri=tracking_uri)
    evaluation = evaluate(
        pairs=pairs,
        networks=networks,
        champion=fetched.outputs["checkpoint"],
        champion_version=current.output,
        config=evaluate_config,
    ).outputs["evaluation"]
    decided = gate(evaluation=evaluation, policy=policy)
    decision = decided.outputs["decision"]
    made = {
        "cases": cases,
        "validation": validation,
        "pairs": pairs,
        "networks": networks,
        "evaluation": evaluation,
        "decision": decision,
        "workspace": workspace,
    }

    with dsl.If(decided.outputs["Output"] == True, name="approved"):  # noqa: E712  (kfp compiles the comparison)
        registered = register(
            networks=networks,
            evaluation=evaluation,
            decision=decision,
            pairs=pairs,
            tracking_uri=tracking_uri,
            code_version=code_version,
        )
        version = registered.outputs["version"]
        signed = export(networks=networks, version=version, pairs=pairs, config=export_config)
        exported = signed.outputs["exported"]
        promoted = _mounted(
            promote(
                exported=exported,
                version=version,
                decision=decision,
                tracking_uri=tracking_uri,
                workspace=workspace,
                repository=repository,
                triton_url=triton_url,
                config=promote_config,
            ),
            workspace=True,
        )
        for task in (signed, promoted):  # what export signs, promote checks
            kubernetes.use_secret_as_env(
                task, secret_name=SIGNING_SECRET, secret_key_to_env={"key": "MIRA_SIGNING_KEY"}
            )
        promoted.set_caching_options(False)  # it looks at what serves now, and does nothing where all is well
        restored = _mounted(
            restore(
                sites_file=sites_file,
                server=promoted.outputs["Output"],
                workspace=workspace,
                version=registered.outputs["Output"],
                data_fingerprint=data_fingerprint,
                config=restore_config,
            ),
            sites=True,
            workspace=True,
        )
        told = _mounted(
            report(
                **made,
                version=version,
                exported=exported,
                promotion=promoted.outputs["promotion"],
                restoration=restored.outputs["restoration"],
            ),
            workspace=True,
        )
        told.set_caching_options(False)
    with dsl.Else(name="refused"):
        told_refusal = _mounted(report(**made), workspace=True)
        told_refusal.set_caching_options(False)
    return dsl.OneOf(told.outputs["verdict"], told_refusal.outputs["verdict"])
