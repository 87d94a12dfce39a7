"""Trained weights in this process, by torch, which this library itself does not know.

The package `model` brings the engine, as the entry point `weights` of the group `mira.engines`.
"""

from importlib.metadata import entry_points

from mira.client.batches import Engine
from mira.errors import ConfigurationError

GROUP, NAME = "mira.engines", "weights"


def weights_engine(word: str) -> Engine:
    """An engine that restores by torch; `Restorer(weights_engine("released"), in_flight=1)` restores arrays by it.

    Args:
        word: `released` for the weights that come with the project, or the path of a checkpoint folder.

    Raises:
        ConfigurationError: when torch is not installed, or there are no such weights.
        DataRejected: when the folder is not a complete checkpoint.
    """
    found = list(entry_points(group=GROUP, name=NAME))
    if not found:
        raise ConfigurationError("This installation of mira-net is older than its code. Install it again.")
    try:
        engine: Engine = found[0].load()(word)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"Restoring by weights in this process needs {error.name}: pip install 'mira-net[weights]'. Or give a "
            "server (--server), or an exported network (--model)."
        ) from error
    return engine
