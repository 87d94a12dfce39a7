"""The command line of a step: path arguments, a section of params.yaml as its config, exit codes.

`dvc.yaml`, a container and a person all call a step this way; the KFP component calls the same function.
"""

import argparse
import errno
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from mira.errors import ConfigurationError, MiraError, RetryableError

C = TypeVar("C", bound=BaseModel)

FAILURE_MARK = "MIRA-FAILURE "
PROGRESS_MARK = "MIRA-PROGRESS "


def announce(text: str) -> None:
    """Tell how far a long step is; the local runner shows the newest line beside its progress bar."""
    print(PROGRESS_MARK + text, flush=True)  # noqa: T201


def configure(config_class: type[C], config: Mapping[str, Any], step: str, **values: Any) -> C:
    """A step's config from the JSON of a pipeline parameter, with single values laid over it.

    Raises:
        ConfigurationError: naming the key and what it must be.
    """
    try:
        return config_class.model_validate({**config, **values})
    except ValidationError as error:
        raise ConfigurationError(explain(error, f"{step} config")) from error


@contextmanager
def reported(step: str) -> Iterator[None]:
    """Turn an error of a step into one line that names step and exit code, and that exit code.

    The local runner knows of a failed task only that it failed; it reads this line from the task's log.
    """
    try:
        with _readable_storage_errors():
            yield
    except MiraError as error:
        failure = {"step": step, "exit_code": error.exit_code, "message": str(error)}
        print(FAILURE_MARK + json.dumps(failure), flush=True)  # noqa: T201
        raise SystemExit(error.exit_code) from error


@contextmanager
def _readable_storage_errors() -> Iterator[None]:
    """Say what to do when the disk is full or closed to us; nothing half-written is left: every write is atomic."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EROFS) and error.filename:
            raise ConfigurationError(
                f"{error.filename}: {error.strerror} for the account with uid {os.getuid()} and gid {os.getgid()} that "
                "runs this step. Let it read and write there: the volume's owner or `fsGroup`, and no read-only mount."
            ) from error
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise RetryableError(
            "No space left on the disk. Free some space and run again; finished steps are kept."
        ) from error


def load_config(config_class: type[C], path: Path | None, section: str) -> C:
    """Read one section of a YAML file of parameters; defaults where there is no file or no section.

    Raises:
        ConfigurationError: naming the file, the key and what it must be.
    """
    if path is None:
        return config_class()
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"Cannot read {path}: {error}. Give a YAML file of parameters.") from error
    try:
        return config_class.model_validate(document.get(section) or {})
    except ValidationError as error:
        raise ConfigurationError(explain(error, f"{path}, section {section}")) from error


def explain(error: ValidationError, where: str) -> str:
    """One line per problem of a failed validation, with the place and what was expected."""
    return "\n".join(f"{where}: {'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())


def main(
    step: str,
    config_class: type[C],
    paths: Sequence[str],
    call: Callable[..., Any],
    description: str,
    argv: Sequence[str] | None = None,
) -> int:
    """Parse the command line of a step, run it, print its summary as JSON and return the exit code.

    Args:
        step: name of the step, its section in the parameter file, and `python -m components.<step>`.
        config_class: pydantic model of its parameters.
        paths: names of its path arguments; each becomes a required option of the same name. A trailing `*`
            marks one that may be given several times and arrives as a list, a trailing `?` an optional one.
        call: called with every path as a keyword argument, and `config`.
        description: what the step does.
        argv: arguments, for tests; those of the process by default.

    Returns:
        0 when done, 2 for wrong usage, 3 for rejected data, 4 for a failed gate, 5 for a serving failure.
    """
    parser = argparse.ArgumentParser(prog=f"python -m components.{step}", description=description)
    for name in paths:
        option = "--" + name.rstrip("*?").replace("_", "-")
        if name.endswith("*"):
            parser.add_argument(option, type=Path, action="append", required=True, metavar="PATH")
        else:
            parser.add_argument(option, type=Path, required=not name.endswith("?"), metavar="PATH")
    parser.add_argument("--config", type=Path, metavar="FILE", help=f"YAML parameters; section `{step}` is read")
    fields = config_class.model_fields.items()
    parser.epilog = "Parameters: " + "; ".join(f"{key}: {field.description}" for key, field in fields)
    arguments = vars(parser.parse_args(argv))
    try:
        config = load_config(config_class, arguments.pop("config"), step)
        with _readable_storage_errors():
            summary = call(**arguments, config=config)
    except MiraError as error:
        print(f"{step}: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    if isinstance(summary, BaseModel):
        print(json.dumps(summary.model_dump(mode="json")))  # noqa: T201
    return 0
