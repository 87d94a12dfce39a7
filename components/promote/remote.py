"""Exported networks from an artifact store: fetched once into a local folder, and checked there like any other.

Triton never reads from a bucket: it would load a half-written version, and a store that is away would be an outage.
"""

import hashlib
import os
from pathlib import Path

from components.promote.paths import ServingPaths
from mira.errors import ServingFailed
from mira.storage import atomic_folder


def impatient() -> None:
    """Let MLflow and S3's client give up within seconds when a server is away, instead of their default's minutes."""
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "2")


def _errors_of_s3() -> tuple[type[Exception], ...]:
    """What S3's client raises, where it is installed; MLflow passes some of it on as it is."""
    try:
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError:
        return ()
    return BotoCoreError, ClientError


def local_copy(paths: ServingPaths, address: Path | str, tracking_uri: str) -> Path:
    """A local folder with exported networks.

    Args:
        paths: where things lie; copies are kept below the state folder.
        address: a folder, or an address that MLflow can fetch: `runs:/...`, `mlflow-artifacts://...`, `s3://...` (needs
            boto3 and its credentials).
        tracking_uri: MLflow, for addresses that name a run.

    Raises:
        ServingFailed: when it cannot be fetched.
    """
    text = str(address)
    if isinstance(address, Path) or not ("://" in text or text.startswith(("runs:/", "models:/"))):
        return Path(address)
    impatient()
    import mlflow
    from mlflow.exceptions import MlflowException

    target = paths.state / "fetched" / hashlib.sha256(text.encode()).hexdigest()[:16]
    try:
        with atomic_folder(target) as new:
            fetched = Path(
                mlflow.artifacts.download_artifacts(
                    artifact_uri=text, dst_path=str(new), tracking_uri=None if tracking_uri == "off" else tracking_uri
                )
            ).relative_to(new)
    except ImportError as error:
        raise ServingFailed(f"{text} cannot be fetched: {error.name} is not installed.") from error
    # ValueError: an address that MLflow cannot take apart
    except (MlflowException, OSError, ValueError, *_errors_of_s3()) as error:
        lines = str(error).strip().splitlines()
        raise ServingFailed(
            f"{text} cannot be fetched ({type(error).__name__}: {lines[0][:200] if lines else ''}). "
            "Is the artifact store up? What served before serves on."
        ) from error
    return target / fetched
