"""Engine, precision and GPU file of a promotion that does not name them: those that serve now.

Whoever chose them read what they cost and counted on their speed, which a retrained network must not undo without a
word. A network that did not stand the export's test in them is served in f32 instead, and that is said: f32 is what the
gate judged, only slower, so it is no reason to keep a better network from serving. What is named is served or refused.
"""

from typing import TYPE_CHECKING

from components.promote import repository
from components.promote.exported import Exported, Release
from mira.errors import ServingFailed

if TYPE_CHECKING:
    from components.promote.step import PromoteConfig

CPU, GPU = ("engine", "precision"), ("gpu",)


def keep_what_serves(config: "PromoteConfig", wanted: Release) -> "tuple[PromoteConfig, str]":
    """The parameters of a promotion, with what serves now for what they do not name.

    Args:
        config: parameters; engine, precision and GPU file count as named where they were given.
        wanted: what is promoted; one choice holds for all its networks.

    Returns:
        The parameters, and what is not kept and why, "" where everything is.
    """
    served = repository.read_served(config)
    if served.version is None:
        return config, ""
    try:  # what is not as it was sealed decides nothing, and does not stand in the way of what replaces it
        repository.verify(config, served, served.version)
        known = repository.served_as(config, served.models[0], served.version)
    except ServingFailed as error:
        return config, f"Nothing of engine or precision is kept, since what serves is not as it was promoted: {error}"
    kept = {key: value for key, value in known.items() if key not in config.model_fields_set}
    chosen, words = config.model_copy(update=kept), []
    for keys in (CPU, GPU):
        defaults = {key: getattr(config, key) for key in keys if key in kept}
        failed = [model.name for model in wanted.models if not _stood(model, chosen, keys)]
        if failed and defaults != {key: getattr(chosen, key) for key in defaults}:
            before, chosen = chosen, chosen.model_copy(update=defaults)
            words.append(
                f"{_label(before, keys)} serves, but {', '.join(failed)} of version {wanted.version} did not stand the "
                f"export's test in it or was not tried (parity.json says which): it gets {_label(chosen, keys)}."
            )
    return chosen, " ".join(words)


def _stood(model: Exported, config: "PromoteConfig", keys: tuple[str, ...]) -> bool:
    return model.stood(config.engine, config.precision) if keys == CPU else model.stood(*model.gpu_engine(config.gpu))


def _label(config: "PromoteConfig", keys: tuple[str, ...]) -> str:
    return " ".join(getattr(config, key) for key in keys) + (" on a GPU" if keys == GPU else " on a CPU")
