"""The registry's `champion` alias: which version MLflow says is served."""

import os
from typing import Any

from components.promote.paths import ServingPaths
from components.promote.remote import impatient
from mira.errors import MiraError, ServingFailed

REGISTERED_MODEL = "mira_net"
CHAMPION = "champion"
OFF = "off"


def tracking_uri(paths: ServingPaths, given: str = "") -> str:
    """Address of MLflow: the given one, the workspace's own database, MLFLOW_TRACKING_URI, or `off` without any.

    A workspace that has a database was released with it, whatever a shell's variable says.
    """
    database = paths.workspace.resolve() / "mlflow.db"
    if given or database.is_file():
        return given or f"sqlite:///{database}"
    return os.environ.get("MLFLOW_TRACKING_URI", OFF)


def champion(uri: str) -> int | None:
    """Version that the alias names; None when there is no alias or no registry.

    Raises:
        ServingFailed: when MLflow cannot be reached.
    """
    if uri == OFF:
        return None
    client, missing = _client(uri)
    try:
        return int(client.get_model_version_by_alias(REGISTERED_MODEL, CHAMPION).version)
    except missing as error:
        if getattr(error, "error_code", "") in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise ServingFailed(f"MLflow cannot be asked for the champion: {_reason(error)}") from error


def move_champion(uri: str, version: int | None) -> None:
    """Point the alias at a version, or remove it; nothing is written when it is there already.

    Raises:
        ServingFailed: when MLflow refuses or cannot be reached.
    """
    if uri == OFF:
        return
    client, failure = _client(uri)
    try:
        if champion(uri) == version:
            return
        if version is None:
            client.delete_registered_model_alias(REGISTERED_MODEL, CHAMPION)
        else:
            client.set_registered_model_alias(REGISTERED_MODEL, CHAMPION, str(version))
    except failure as error:
        raise ServingFailed(
            f"MLflow could not move the champion alias to version {version}: {_reason(error)}. Is it up, "
            "and is this version in it?"
        ) from error


def _client(uri: str) -> tuple[Any, tuple[type[Exception], ...]]:
    impatient()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return MlflowClient(tracking_uri=uri, registry_uri=uri), (MlflowException, SQLAlchemyError, OSError)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise ServingFailed(f"MLflow cannot be reached: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, MiraError):
        return str(error)
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
