"""What a training begins from: nothing, the released weights, a checkpoint folder, or a registered version."""

import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from components.train.attribution import notice_of
from components.train.seen import Seen, seen_by
from mira.cases import Record
from mira.errors import ConfigurationError, RetryableError

if TYPE_CHECKING:
    from torch import Tensor

    from model.config import ModelConfig
    from model.network import MiraNet
    from model.released import Weights

REGISTERED = re.compile(r"models:/(?P<name>[^/@]+)(/(?P<version>\d+)|@(?P<alias>[\w-]+))")
RUN = "runs:/"
# what the weights of a start may differ in: it has none, or weights of its own
FREE = ("error_map", "keeps_local_mean")
HEADS = {
    "fresh": "; the error head is new, since it has none",
    "dropped": "; its error head is left out, since error_map is off",
}


class StartedFrom(Record):
    """The weights that a training began from, for its record.

    Attributes:
        name: name of their network.
        version: its version, or the first digits of the SHA-256.
        sha256: of their `model.safetensors`.
        network: `unified`, or the task that they were trained on.
        datasets: names of the data sets of their model card; empty where there is none.
    """

    name: str
    version: str
    sha256: str
    network: str
    datasets: list[str]

    @property
    def label(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True)
class Start:
    """Weights to begin from.

    Attributes:
        origin: whose they are.
        shape: shape of their network.
        weights: the weights by name.
        seen: patients whose images they have seen.
        notice: their licence and attribution, which go with every copy; empty where they came without.
    """

    origin: StartedFrom
    shape: "ModelConfig"
    weights: "dict[str, Tensor]"
    seen: Seen
    notice: str

    def check(self, shape: "ModelConfig") -> None:
        """Make sure that the weights fit a network of a shape; they may differ in what is no matter of shape (`FREE`).

        Raises:
            ConfigurationError: naming what differs.
        """
        theirs = self.shape.to_dict()
        odd = [
            f"{key} {theirs[key]} instead of {value}"
            for key, value in shape.to_dict().items()
            if key not in FREE and theirs[key] != value
        ]
        if odd:
            raise ConfigurationError(
                f"The weights of {self.origin.label} do not fit this training: {', '.join(odd)}. Set size: "
                f"{self.shape.size} where that is what differs, or start from other weights, or from scratch "
                "(start_from: '')."
            )

    def network(self, shape: "ModelConfig", say: Callable[[str], None] = lambda line: None) -> "MiraNet":
        """A new network with these weights.

        Args:
            shape: shape of the new network.
            say: told what was taken.

        Raises:
            ConfigurationError: when the weights are those of another network.
        """
        from model.checkpoint import begin_from
        from model.network import MiraNet

        self.check(shape)
        network = MiraNet(shape)
        head = begin_from(network, self.weights)
        say(f"starts from {self.origin.label} (weights {self.origin.sha256[:12]}){HEADS.get(head, '')}")
        return network


def find_start(start_from: str, size: str, tracking_uri: str, sha256: str = "") -> Start | None:
    """The weights that `start_from` names; None for a training from scratch.

    Args:
        start_from: empty, `released`, a checkpoint folder, or a checkpoint in MLflow: `models:/mira_net/3`,
            `models:/mira_net@champion`, `runs:/RUN/checkpoint`.
        size: size of the network to train, for `released`.
        tracking_uri: MLflow, as in `components.tracking.resolve`.
        sha256: what the weights' SHA-256 must be; empty for any.

    Raises:
        ConfigurationError: when there are no such weights, or others than `sha256` says.
        DataRejected: when they are no complete checkpoint.
        RetryableError: when MLflow is away.
    """
    if not start_from:
        return None
    from model.checkpoint import read_checkpoint, read_weights

    with _found(start_from, size, tracking_uri, sha256) as found:
        checkpoint = read_checkpoint(found.folder)
        origin = StartedFrom(
            name=found.name,
            version=found.version,
            sha256=found.sha256,
            network=checkpoint.network,
            datasets=list(found.datasets),
        )
        seen, notice = seen_by(found.folder, origin.label), notice_of(found.folder, origin.label)
        return Start(origin, checkpoint.model, read_weights(found.folder), seen, notice)


def pinned(start_from: str, size: str, tracking_uri: str, sha256: str = "") -> dict[str, str]:
    """`start_from` and `start_sha256` for a pipeline, whose cache sees parameters and not files.

    Args:
        start_from: as in `find_start`; the path of a folder becomes absolute, since steps run elsewhere.
        size: size of the network to train.
        tracking_uri: MLflow.
        sha256: what the weights' SHA-256 must be; empty for any.

    Raises:
        ConfigurationError: when there are no such weights, or others than `sha256` says.
        DataRejected: when they are no complete checkpoint.
        RetryableError: when MLflow is away.
    """
    if not start_from:
        return {"start_from": "", "start_sha256": ""}
    from model.released import RELEASED

    is_folder = start_from != RELEASED and not _is_remote(start_from)
    word = str(Path(start_from).absolute()) if is_folder else start_from
    with _found(word, size, tracking_uri, sha256) as found:
        return {"start_from": word, "start_sha256": found.sha256}


def _is_remote(start_from: str) -> bool:
    return start_from.startswith(("models:/", RUN))


@contextmanager
def _found(start_from: str, size: str, tracking_uri: str, sha256: str) -> "Iterator[Weights]":
    """The weights that a word names, which must have a SHA-256; those of MLflow are on this machine for the while."""
    from model.released import find_weights, weights_in

    with tempfile.TemporaryDirectory() as scratch:
        if _is_remote(start_from):
            folder, version = _fetched(start_from, tracking_uri, Path(scratch))
            found = weights_in(folder)
            found = replace(found, version=version) if version else found
        else:
            found = find_weights(start_from, size)
        if sha256 and found.sha256 != sha256:
            raise ConfigurationError(
                f"{start_from} now holds other weights ({found.sha256[:12]}…) than start_sha256 says "
                f"({sha256[:12]}…). Start the run again, or correct start_sha256."
            )
        yield found


def _fetched(address: str, tracking_uri: str, scratch: Path) -> tuple[Path, str]:
    """Fetch a checkpoint from MLflow: its folder, and the number of a registered version."""
    import mlflow
    from mlflow.exceptions import MlflowException

    from components.register.registry import connect

    client = connect(tracking_uri)
    source, version = address, ""
    named = REGISTERED.fullmatch(address)
    if named is None and not address.startswith(RUN):
        raise ConfigurationError(
            f"start_from: {address} is no address of a registered version. Write models:/mira_net/3 or "
            "models:/mira_net@champion."
        )
    try:
        if named is not None:
            stored = (
                client.get_model_version(named["name"], named["version"])
                if named["version"]
                else client.get_model_version_by_alias(named["name"], named["alias"])
            )
            source, version = str(stored.source), str(stored.version)
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(scratch))), version
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise ConfigurationError(
                f"start_from: MLflow has no {address} ({error.error_code}). Correct it."
            ) from error
        raise RetryableError(
            f"MLflow could not give {address} ({error.error_code}): {str(error).splitlines()[0]}. Try again."
        ) from error
