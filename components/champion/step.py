"""Champion: fetch the network that serves now, so that a candidate can be measured beside it."""

import shutil
import tempfile
from pathlib import Path

from pydantic import Field

from components.register.registry import CHAMPION, connect, retryable, version_of_alias
from components.train.attribution import NOTICE
from mira.cases import Record
from mira.errors import DataRejected
from mira.storage import hash_file


class ChampionConfig(Record):
    """Parameters of the champion step."""

    tracking_uri: str = Field(
        "",
        description="MLflow server or database; empty: MLFLOW_TRACKING_URI, or mlflow.db in the working folder",
    )


class ChampionSummary(Record):
    """Which version serves.

    Attributes:
        version: its number; empty when there is none, or when its weights are those of the candidate.
        reason: why it is empty, for people.
    """

    version: str
    reason: str


def champion(candidate: Path, out: Path, config: ChampionConfig) -> ChampionSummary:
    """Fetch the checkpoint that the alias `champion` of `mira_net` names.

    Args:
        candidate: checkpoint folder of the unified network under test.
        out: folder for the champion's checkpoint; left empty when there is nothing to compare with.
        config: parameters.

    Returns:
        Its version.

    Raises:
        DataRejected: when the candidate is no checkpoint, or the champion's artifacts are.
        RetryableError: when MLflow cannot be reached.
    """
    weights = candidate / "model.safetensors"
    if not weights.is_file():
        raise DataRejected(f"{candidate} is not a checkpoint: model.safetensors is missing. Train again.")
    for old in ("model.safetensors", "config.json", "training.json", NOTICE):  # `out` may be another run's
        (out / old).unlink(missing_ok=True)
    client = connect(config.tracking_uri)
    with retryable():
        version = version_of_alias(client, CHAMPION)
    if version is None:
        return ChampionSummary(version="", reason="no champion serves yet")
    if version.tags.get("weights_sha256") == hash_file(weights):
        return ChampionSummary(version="", reason=f"the candidate is the champion, version {version.version}")

    import mlflow

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=out.parent) as scratch:
        with retryable():
            fetched = Path(mlflow.artifacts.download_artifacts(artifact_uri=version.source, dst_path=scratch))
        for name in ("model.safetensors", "config.json"):
            if not (fetched / name).is_file():
                raise DataRejected(
                    f"Version {version.version} of mira_net has no {name} among its artifacts. "
                    "Roll back to a complete version, or remove the alias `champion`."
                )
        found = hash_file(fetched / "model.safetensors")
        if version.tags.get("weights_sha256", found) != found:
            raise DataRejected(
                f"The artifacts of version {version.version} of mira_net are not the weights that were registered: "
                "they were changed, or are of another training. Roll back to a version whose artifacts are whole."
            )
        if found == hash_file(weights):
            return ChampionSummary(version="", reason=f"the candidate is the champion, version {version.version}")
        for path in fetched.iterdir():
            if path.is_file():
                shutil.copyfile(path, out / path.name)
    return ChampionSummary(version=str(version.version), reason="")
