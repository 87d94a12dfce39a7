"""Lineage: what a version was made from, complete or there is no version."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import Field

from components.evaluate.results import UNIFIED, read_evaluation
from components.train.start import StartedFrom
from mira.cases import Record
from mira.errors import DataRejected, GateFailed
from mira.pairs import read_index
from mira.storage import hash_file, read_json


class TrainedNetwork(Record):
    """One network of a version; `code_version` is that of its training, `started_from` None where it began anew."""

    weights_sha256: str
    run_id: str
    code_version: str = ""
    started_from: StartedFrom | None = None


class Lineage(Record):
    """Everything that a version rests on.

    Attributes:
        code_version: version or commit of the code.
        data_version: hash over the cases and the pairing parameters.
        config_sha256: hash over the shapes and the training parameters of all networks.
        decision_sha256: hash of the decision.
        evaluation_sha256: hash of the evaluation that was decided on.
        policy_sha256: hash of the policy that decided.
        networks: name -> network.
        left_out: single-task networks that the gate lets nobody export, with the rules that they break.
    """

    code_version: str
    data_version: str
    config_sha256: str
    decision_sha256: str
    evaluation_sha256: str
    policy_sha256: str
    networks: dict[str, TrainedNetwork]
    left_out: dict[str, list[str]] = Field(default_factory=dict)

    @property
    def sha256(self) -> str:
        """Hash that tells one lineage from another."""
        return hashlib.sha256(json.dumps(self.model_dump(), sort_keys=True).encode()).hexdigest()


def collect(
    networks: list[Path],
    evaluation: Path,
    decision: Path,
    pairs: Path,
    code_version: str,
    parameters: Callable[[str, str], dict[str, str]],
) -> Lineage:
    """Collect the lineage of an approved candidate and check that its parts belong together.

    Args:
        networks: checkpoint folders of the candidate's networks.
        evaluation: folder with `metrics.json`.
        decision: folder with `decision.json`.
        pairs: root of the pairs.
        code_version: version of the code.
        parameters: gives the parameters of a network's training run by the network's name and the run's id.

    Raises:
        GateFailed: when the decision is a refusal.
        DataRejected: when a part is missing or belongs to something else.
    """
    path = decision / "decision.json"
    if not path.is_file():
        raise DataRejected(f"{decision} holds no decision.json. Run the gate step first.")
    verdict = read_json(path)
    if verdict.get("approved") is not True:
        raise GateFailed(f"The candidate was refused by: {', '.join(verdict.get('failed', []))}. It gets no version.")
    if not code_version:
        raise DataRejected("The version of the code is not known. Set `code_version`, e.g. to the git commit.")
    data_version = read_index(pairs).data_version
    trained: dict[str, TrainedNetwork] = {}
    configs: dict[str, Any] = {}
    for folder in networks:
        name, trained_network, config = _trained(folder, data_version)
        trained[name] = trained_network
        configs[name] = {"network": config, "training": parameters(name, trained_network.run_id)}
    if UNIFIED not in trained:
        raise DataRejected("None of the networks is the unified one, which is what gets a version. Train it.")
    evaluation_sha256 = hash_file(evaluation / "metrics.json")
    if verdict["evaluation_sha256"] != evaluation_sha256:
        raise DataRejected("The decision was made on another evaluation. Run the gate step again.")
    if verdict["candidate_weights_sha256"] != trained[UNIFIED].weights_sha256:
        raise DataRejected("The decision was made about other weights. Run evaluate and gate again.")
    measured = read_evaluation(evaluation)
    if measured.data_version != data_version:
        raise DataRejected("The evaluation was made on other pairs. Run evaluate and gate again.")
    for name, network in trained.items():
        if name not in measured.networks or measured.networks[name].weights_sha256 != network.weights_sha256:
            raise DataRejected(
                f"The network {name} is not the one that was evaluated. Run evaluate and gate again with it."
            )
    return Lineage(
        code_version=code_version,
        data_version=data_version,
        config_sha256=hashlib.sha256(json.dumps(configs, sort_keys=True).encode()).hexdigest(),
        decision_sha256=hash_file(path),
        evaluation_sha256=evaluation_sha256,
        policy_sha256=verdict["policy_sha256"],
        networks=trained,
        left_out=verdict.get("left_out", {}),
    )


def _trained(folder: Path, data_version: str) -> tuple[str, TrainedNetwork, dict[str, Any]]:
    """Name, lineage and configuration of one checkpoint folder."""
    for name in ("model.safetensors", "config.json", "training.json"):
        if not (folder / name).is_file():
            raise DataRejected(f"{folder} lacks {name}, so the network has no lineage. Train it again.")
    training = read_json(folder / "training.json")
    weights = hash_file(folder / "model.safetensors")
    if training.get("weights_sha256", weights) != weights:
        raise DataRejected(f"{folder}: the weights are not those that its training.json names. Train it again.")
    if not training.get("run_id"):
        raise DataRejected(
            f"{folder}: training.json names no MLflow run, so the network has no lineage. Train it again."
        )
    if training.get("data_version") != data_version:
        raise DataRejected(
            f"{folder} was trained on data version {training.get('data_version')}, but the pairs are {data_version}. "
            "Train it again."
        )
    config, begun = read_json(folder / "config.json"), training.get("started_from")
    started = None if begun is None else StartedFrom(**begun)
    code = str(training.get("code_version") or "")
    trained = TrainedNetwork(weights_sha256=weights, run_id=training["run_id"], code_version=code, started_from=started)
    return str(config["network"]), trained, config
