"""MLflow tracking, as the train step uses it: a database made ready once, and one run with batched metrics."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mira.errors import RetryableError

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

DEFAULT_URI = "sqlite:///mlflow.db"
SQLITE = "sqlite:///"
ATTEMPTS = 6
BATCH = 500  # MLflow takes at most 1000 metrics in one call


def resolve(tracking_uri: str) -> str:
    """The address to use: the given one, else MLFLOW_TRACKING_URI, else `mlflow.db` here; SQLite paths absolute."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "") or DEFAULT_URI
    return SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute()) if uri.startswith(SQLITE) else uri


def prepare(tracking_uri: str, experiment: str = "mira-net") -> str:
    """Make tracking ready: tables and experiment exist afterwards, whoever else does the same at the same time.

    The first use of a SQLite database runs MLflow's migrations, which two processes must not do together; a lock
    file beside the database keeps them apart. Artifacts of a SQLite database lie beside it, in `mlartifacts`.

    Args:
        tracking_uri: address of MLflow; empty as in `resolve`.
        experiment: name of the experiment.

    Returns:
        The experiment's id.

    Raises:
        RetryableError: when MLflow cannot be reached.
    """
    uri = resolve(tracking_uri)
    if not uri.startswith(SQLITE):
        return _experiment(uri, experiment, None)
    database = Path(uri.removeprefix(SQLITE))
    with _locked(database.with_name(database.name + ".lock")):
        return _experiment(uri, experiment, (database.parent / "mlartifacts").as_uri())


def connect(tracking_uri: str) -> "MlflowClient":
    """A client of a tracking server or database."""
    import logging

    logging.getLogger("alembic").setLevel(logging.ERROR)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    import mlflow

    uri = resolve(tracking_uri)
    return mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)


def patiently(call: Callable[[], T]) -> T:
    """Call MLflow; try again while a database is locked or a server is away.

    Raises:
        RetryableError: when it stays so.
    """
    from mlflow.exceptions import MlflowException

    for attempt in range(ATTEMPTS):
        try:
            return call()
        except MlflowException as error:
            temporary = error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
            if not temporary:
                raise
            if attempt == ATTEMPTS - 1:
                raise RetryableError(
                    f"MLflow does not answer ({error.error_code}): {str(error).splitlines()[0]}. "
                    "Check the tracking server or database, and start again; the training goes on where it was."
                ) from error
            time.sleep(0.2 * 2**attempt)
    raise AssertionError("unreachable")


class Run:
    """One run: parameters, metrics in batches, files.

    Args:
        tracking_uri: address of MLflow; empty as in `resolve`.
        experiment: name of the experiment.
        name: name of the run.
        tags: tags of the run.
        run_id: a run to go on with; empty for a new one.
    """

    def __init__(
        self, tracking_uri: str, experiment: str, name: str, tags: Mapping[str, str], run_id: str = ""
    ) -> None:
        from mlflow.entities import Metric

        self._metric = Metric
        experiment_id = prepare(tracking_uri, experiment)
        self.client = connect(tracking_uri)
        self._waiting: list[Metric] = []
        if run_id and patiently(lambda: _exists(self.client, run_id)):
            self.run_id = run_id
            patiently(lambda: self.client.update_run(run_id, status="RUNNING", name=name))
            for key, value in tags.items():
                self.client.set_tag(run_id, key, value)
        else:
            created = patiently(lambda: self.client.create_run(experiment_id, run_name=name, tags=dict(tags)))
            self.run_id = str(created.info.run_id)

    def parameters(self, values: Mapping[str, object]) -> None:
        """Log parameters; those of a resumed run are the same again."""
        from mlflow.entities import Param

        known = self.client.get_run(self.run_id).data.params
        new = [Param(key, str(value)) for key, value in values.items() if key not in known]
        if new:
            patiently(lambda: self.client.log_batch(self.run_id, params=new))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Keep metrics of a step for the next batch."""
        now = int(time.time() * 1000)
        self._waiting += [self._metric(key, value, now, step) for key, value in values.items()]
        if len(self._waiting) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Send the metrics that wait."""
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), BATCH):
            part = waiting[start : start + BATCH]
            patiently(lambda part=part: self.client.log_batch(self.run_id, metrics=part))  # type: ignore[misc]

    def file(self, path: Path, folder: str = "") -> None:
        """Store a file, or a folder's content, as artifact."""
        store = self.client.log_artifacts if path.is_dir() else self.client.log_artifact
        patiently(lambda: store(self.run_id, str(path), folder or None))

    def end(self, status: str = "FINISHED") -> None:
        """Close the run."""
        self.flush()
        patiently(lambda: self.client.set_terminated(self.run_id, status))


def _exists(client: "MlflowClient", run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def _experiment(uri: str, name: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    client = connect(uri)

    def find() -> str:
        known = client.get_experiment_by_name(name)
        return str(known.experiment_id if known is not None else client.create_experiment(name, artifacts))

    try:
        return patiently(find)
    except MlflowException as error:
        if error.error_code == "RESOURCE_ALREADY_EXISTS":  # somebody else was faster
            return patiently(find)
        raise RetryableError(f"MLflow at {uri.split('@')[-1]} refuses: {str(error).splitlines()[0]}.") from error


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock between processes; the system frees it when a process dies."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
