"""Options of the simulators: a YAML file with one section per task, or single `name=value` texts.

    ct-denoising:
      electronic_variance: 12
    mri-super-resolution:
      snr: 25
      partial_fourier: 0.75

A section names attributes of the simulator's parameters (`CtParameters`, `PetParameters`, `MrParameters`) and the few
further names that each `parameters_for` documents. `mira calibrate` writes a file of this form.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mira.errors import ConfigurationError
from mira.tasks import Task

OptionValue = float | int | str | bool
Options = dict[Task, dict[str, OptionValue]]
P = TypeVar("P")

# of all simulators: 0 would be no physics
POSITIVE = frozenset(
    {
        "photons", "mu_water_per_mm", "cutoff", "minimum_counts", "views", "readings",
        "counts_per_suv", "subsets", "iterations", "binning",
    }
)  # fmt: skip


def read_options(path: Path) -> Options:
    """Read a file of options.

    Raises:
        ConfigurationError: when it cannot be read, or is not sections of plain values under names of tasks.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path} is not a readable YAML file: {type(error).__name__}.") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path} has no sections. Write one per task: {', '.join(Task)}.")
    options: Options = {}
    for name, section in document.items():
        if name not in list(Task):
            raise ConfigurationError(f"{path}: {name!r} is no task. Sections are {', '.join(Task)}.")
        plain = isinstance(section, dict) and all(isinstance(value, OptionValue) for value in section.values())
        if not plain:
            raise ConfigurationError(f"{path}: the section {name} must hold lines of `name: value`.")
        options[Task(name)] = {str(key): value for key, value in section.items()}
    return options


def parse_options(texts: Sequence[str]) -> dict[str, OptionValue]:
    """Options from texts like `snr=25`.

    Raises:
        ConfigurationError: for a text without `=` or with a value that is not plain.
    """
    options: dict[str, OptionValue] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        parsed = yaml.safe_load(value) if equals else None
        if not isinstance(parsed, OptionValue):
            raise ConfigurationError(f"{text!r} is no option. Write name=value, for example snr=25.")
        options[name.strip()] = parsed
    return options


def override(parameters: P, options: Mapping[str, OptionValue], fixed: Sequence[str], extra: Sequence[str] = ()) -> P:
    """Parameters (a frozen dataclass) with options in place of some attributes.

    Args:
        parameters: what the simulator chose.
        options: new values by attribute.
        fixed: attributes that are no options, such as the level.
        extra: further options, handled elsewhere; only for the message.

    Raises:
        ConfigurationError: for an unknown name or a value of the wrong kind.
    """
    known: dict[str, Any] = asdict(parameters)  # type: ignore[call-overload]
    changed: dict[str, OptionValue] = {}
    for name, value in options.items():
        if name not in known or name in fixed:
            allowed = sorted({*known, *extra} - set(fixed))
            raise ConfigurationError(f"{name!r} is no option of this simulator. Options are {', '.join(allowed)}.")
        changed[name] = _converted(name, value, known[name])
    return replace(parameters, **changed)  # type: ignore[type-var]


def _converted(name: str, value: OptionValue, before: OptionValue) -> OptionValue:
    """The value in the kind of the attribute's present one."""
    if isinstance(before, bool | str):
        if not isinstance(value, type(before)):
            raise ConfigurationError(f"{name} must be {'true or false' if isinstance(before, bool) else 'a word'}.")
        return value
    if isinstance(value, bool | str) or not (math.isfinite(value) and value >= 0):
        raise ConfigurationError(f"{name} must be a number, 0 or above.")
    if isinstance(before, int) and value != int(value):
        raise ConfigurationError(f"{name} must be a whole number.")
    if value == 0 and name in POSITIVE:
        raise ConfigurationError(f"{name} must be above 0.")
    return type(before)(value)
