"""Register: an approved candidate becomes a version of `mira_net` with its whole lineage."""

import tempfile
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from components.evaluate.results import UNIFIED, Evaluation, read_evaluation
from components.register.card import model_card
from components.register.lineage import Lineage, collect
from components.register.registry import CHALLENGER, CHECKPOINT, MODEL, connect, retryable
from components.train.attribution import NOTICE, read_notices
from mira.cases import Record
from mira.errors import DataRejected
from mira.pairs import read_index
from mira.storage import atomic_folder, read_json, write_json, write_text

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


class RegisterConfig(Record):
    """Parameters of the register step."""

    tracking_uri: str = Field(
        "",
        description="MLflow server or database; empty: MLFLOW_TRACKING_URI, or mlflow.db in the working folder",
    )
    code_version: str = Field("", description="version of the code, e.g. the git commit; part of the lineage")


class RegisterSummary(Record):
    """What was registered.

    Attributes:
        version: number of the version.
        created: whether it is new; False when the same lineage had one.
    """

    version: int
    created: bool


def register(
    networks: list[Path], evaluation: Path, decision: Path, pairs: Path, out: Path, config: RegisterConfig
) -> RegisterSummary:
    """Register an approved candidate; the same lineage again gives the same version.

    Args:
        networks: checkpoint folders of the candidate's networks.
        evaluation: folder with `metrics.json`.
        decision: folder with `decision.json`; must be an approval.
        pairs: root of the pairs that the networks were trained on.
        out: folder for `version.json` and `model_card.md`.
        config: parameters.

    Returns:
        The version, with the alias `challenger`.

    Raises:
        GateFailed: for a refused candidate.
        DataRejected: when its lineage is incomplete or contradicts itself.
        RetryableError: when MLflow cannot be reached.
    """
    client = connect(config.tracking_uri)
    lineage = collect(networks, evaluation, decision, pairs, config.code_version, partial(_parameters, client))
    measured = read_evaluation(evaluation)
    verdict = read_json(decision / "decision.json")
    card = model_card(lineage, measured, verdict, read_index(pairs), read_notices(networks))
    folder = next(path for path in networks if read_json(path / "config.json")["network"] == UNIFIED)
    with retryable():
        source = _checkpoint(client, folder, lineage.networks[UNIFIED].run_id)
        version, created = _version(client, lineage, measured, source)
        client.set_registered_model_alias(MODEL, CHALLENGER, version.version)
    moment = datetime.fromtimestamp(version.creation_timestamp / 1000, tz=UTC)
    with atomic_folder(out) as new:
        document = {
            "name": MODEL,
            "version": int(version.version),
            "run_id": lineage.networks[UNIFIED].run_id,
            "source": source,
            "created": moment.isoformat(timespec="seconds"),
            "lineage_sha256": lineage.sha256,
            **lineage.model_dump(),
        }
        write_json(new / "version.json", document)
        write_text(new / "model_card.md", card)
    with retryable():
        run_id = lineage.networks[UNIFIED].run_id
        for path in (
            decision / "decision.json",
            evaluation / "metrics.json",
            out / "model_card.md",
            out / "version.json",
        ):
            client.log_artifact(run_id, str(path), "release")
    return RegisterSummary(version=int(version.version), created=created)


def _parameters(client: "MlflowClient", network: str, run_id: str) -> dict[str, str]:
    """Parameters of a training run, which must exist."""
    from mlflow.exceptions import MlflowException

    with retryable():
        try:
            return dict(client.get_run(run_id).data.params)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise DataRejected(
                f"MLflow has no run {run_id} of the network {network}, so it has no lineage. "
                "Use the tracking server it was trained with, or train it again."
            ) from error


def _checkpoint(client: "MlflowClient", folder: Path, run_id: str) -> str:
    """Address of the run's checkpoint artifact; uploaded now when training has not done it.

    Raises:
        DataRejected: when the run holds the checkpoint of other weights.
    """
    present = {Path(item.path).name for item in client.list_artifacts(run_id, CHECKPOINT)}
    if "training.json" in present:
        with tempfile.TemporaryDirectory() as scratch:
            stored = read_json(Path(client.download_artifacts(run_id, f"{CHECKPOINT}/training.json", scratch)))
        if stored.get("weights_sha256") != read_json(folder / "training.json").get("weights_sha256"):
            raise DataRejected(f"The MLflow run {run_id} holds other weights than {folder}. Train the network again.")
    for name in ("model.safetensors", "config.json", "training.json", NOTICE):
        if name not in present and (folder / name).is_file():
            client.log_artifact(run_id, str(folder / name), CHECKPOINT)
    return f"runs:/{run_id}/{CHECKPOINT}"


def _version(
    client: "MlflowClient", lineage: Lineage, measured: Evaluation, source: str
) -> tuple["ModelVersion", bool]:
    """The version with this lineage, made now when there is none."""
    if not client.search_registered_models(f"name='{MODEL}'"):
        client.create_registered_model(
            MODEL,
            description="MIRA-Net: low-dose CT, low-count PET and low-resolution MR by one network. Research use.",
        )
    same = [
        version
        for version in client.search_model_versions(f"name='{MODEL}'")
        if version.tags.get("lineage_sha256") == lineage.sha256
    ]
    if same:
        return min(same, key=lambda version: int(version.version)), False
    tags = {
        "lineage_sha256": lineage.sha256,
        "code_version": lineage.code_version,
        "data_version": lineage.data_version,
        "config_sha256": lineage.config_sha256,
        "decision_sha256": lineage.decision_sha256,
        "evaluation_sha256": lineage.evaluation_sha256,
        "policy_sha256": lineage.policy_sha256,
        "weights_sha256": lineage.networks[UNIFIED].weights_sha256,
        "metric_profile": measured.profile,
    }
    tags |= {f"run.{name}": network.run_id for name, network in lineage.networks.items()}
    if (start := lineage.networks[UNIFIED].started_from) is not None:
        tags |= {"started_from": start.label, "started_from_sha256": start.sha256}
    for task, splits in measured.summary.items():
        for split, figures in splits.items():
            if figures.get("gain_db") is not None:
                tags[f"gain_db.{task}.{split}"] = f"{figures['gain_db']:.3f}"
    run_id = lineage.networks[UNIFIED].run_id
    return client.create_model_version(MODEL, source=source, run_id=run_id, tags=tags), True
