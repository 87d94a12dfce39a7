"""Checkpoint folders: `model.safetensors` with the weights and `config.json` with what they are."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from mira.errors import ConfigurationError, DataRejected
from mira.storage import read_json, write_json
from mira.tasks import Task
from model.config import ModelConfig
from model.network import GuidedNetwork, MiraNet
from model.restorer import Restorer

UNIFIED = "unified"
ERROR_HEAD = "error_head."  # how the names of its weights begin
CALIBRATION = "error_head.scale"


@dataclass(frozen=True)
class Checkpoint:
    """What `config.json` says of the weights beside it.

    Attributes:
        network: `unified`, or the task of a single-task network.
        size: name of the size.
        tasks: the tasks it was trained on; it must not be asked for others.
        model: shape of the network.
        version: version of the code that trained it.
        data_version: the pair store it was trained on.
    """

    network: str
    size: str
    tasks: tuple[Task, ...]
    model: ModelConfig
    version: str
    data_version: str = field(default="")

    @property
    def served_name(self) -> str:
        """Name of its model in Triton: `mira_net`, or `mira_net_ct`, `mira_net_pet`, `mira_net_mri`."""
        from mira.tasks import TASKS

        return "mira_net" if self.network == UNIFIED else f"mira_net_{TASKS[Task(self.network)].short}"


def save_checkpoint(folder: Path, network: GuidedNetwork, checkpoint: Checkpoint) -> None:
    """Write weights and configuration into an existing folder; equal weights are equal bytes."""
    from safetensors.torch import save

    weights = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    (folder / "model.safetensors").write_bytes(save(weights))  # `save_file` would let the owner alone read it
    values: dict[str, Any] = asdict(checkpoint)
    write_json(folder / "config.json", {**values, "tasks": [task.value for task in checkpoint.tasks]})


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read what a checkpoint folder holds, without its weights.

    Raises:
        DataRejected: when the folder is not a complete checkpoint.
    """
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise DataRejected(f"{folder} is not a checkpoint: config.json or model.safetensors is missing. Train again.")
    values = read_json(folder / "config.json")
    try:
        tasks = tuple(Task(task) for task in values.pop("tasks"))
        return Checkpoint(tasks=tasks, model=ModelConfig.from_dict(values.pop("model")), **values)
    except (KeyError, TypeError, ValueError) as error:
        raise DataRejected(f"{folder}/config.json cannot be read: {error}. Train again with this version.") from error


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a checkpoint folder by name, on the CPU.

    Raises:
        DataRejected: when the file cannot be read.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        weights: dict[str, Tensor] = load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise DataRejected(f"{folder}/model.safetensors cannot be read ({error}). Get it again.") from error
    return weights


def begin_from(network: MiraNet, weights: Mapping[str, Tensor]) -> Literal["taken", "fresh", "dropped", "none"]:
    """Give a new network the weights of a trained one of the same shape; the error head may be in either alone.

    The error head's calibration is not taken: it was that of the trained network, and is found anew after training.

    Args:
        network: the new network.
        weights: of the trained one.

    Returns:
        What became of the error head: `taken` over, `fresh` where the trained network has none, `dropped` where the
        new one has none, `none` where neither has.

    Raises:
        ConfigurationError: when the weights are those of another network.
    """
    own = network.state_dict()
    if odd := sorted(name for name in own.keys() ^ weights.keys() if not name.startswith(ERROR_HEAD)):
        raise ConfigurationError(
            f"The weights to start from are those of another network: {len(odd)} names differ, e.g. {odd[0]}. Start "
            "from weights that this version trained, or from scratch (start_from: '')."
        )
    taken = {name: value for name, value in weights.items() if name in own and name != CALIBRATION}
    try:
        network.load_state_dict(taken, strict=False)
    except RuntimeError as error:
        raise ConfigurationError(
            f"The weights to start from have other shapes: {str(error).splitlines()[-1].strip()} Start from weights "
            "of this shape, or from scratch (start_from: '')."
        ) from error
    there = any(name.startswith(ERROR_HEAD) for name in weights)
    if network.error_head is None:
        return "dropped" if there else "none"
    return "taken" if there else "fresh"


def load_network(folder: Path) -> tuple[MiraNet, Checkpoint]:
    """The network of a checkpoint folder on the CPU, in evaluation mode.

    Raises:
        DataRejected: when the folder is not a complete checkpoint or the weights do not fit its configuration.
    """
    checkpoint = read_checkpoint(folder)
    network = MiraNet(checkpoint.model)
    try:
        network.load_state_dict(read_weights(folder))
    except RuntimeError as error:
        raise DataRejected(f"{folder}: the weights do not fit config.json ({error}). Train again.") from error
    return network.eval(), checkpoint


def load_restorer(folder: Path) -> tuple[Restorer, Checkpoint]:
    """The served graph of a checkpoint folder on the CPU, in evaluation mode."""
    network, checkpoint = load_network(folder)
    return Restorer(network).eval(), checkpoint
