"""The MLflow model registry, as the steps that register, compare and promote see it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from components import tracking
from mira.errors import RetryableError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL = "mira_net"
CHALLENGER = "challenger"
CHAMPION = "champion"
CHECKPOINT = "checkpoint"  # artifact folder of a training run that holds its checkpoint


def connect(tracking_uri: str) -> "MlflowClient":
    """A client of the registry that also resolves `runs:/` addresses there.

    Args:
        tracking_uri: MLflow tracking server or database; empty as in `components.tracking.resolve`.
    """
    client = tracking.connect(tracking_uri)
    import mlflow

    mlflow.set_tracking_uri(tracking.resolve(tracking_uri))
    return client


@contextmanager
def retryable() -> Iterator[None]:
    """Turn an unreachable server into an error that says so.

    Raises:
        RetryableError: when MLflow cannot be reached or answers with an error of its own.
    """
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        raise RetryableError(
            f"MLflow refused or could not be reached ({error.error_code}): {str(error).splitlines()[0]}. "
            "Check that the server runs, and try again."
        ) from error


def version_of_alias(client: "MlflowClient", alias: str) -> "ModelVersion | None":
    """The version of `mira_net` that an alias names; None when there is none."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(MODEL, alias)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
