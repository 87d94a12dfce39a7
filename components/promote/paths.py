"""Where the serving station keeps its files."""

from pathlib import Path
from typing import TypeVar

from pydantic import Field

from mira.cases import Record
from mira.errors import ConfigurationError, ServingFailed
from mira.storage import read_json, write_json

ROOT = Path(__file__).resolve().parents[2]
SERVED_FILE = "served.json"
State = TypeVar("State", bound=Record)


class Damaged(ServingFailed):
    """A state file of the station cannot be read, and cannot be until a person has seen to it."""


class Remembered(Record):
    """What a workspace's promotions were told, for the verbs that come later.

    Attributes:
        repository: the model repository that was served last.
        url: HOST:PORT of a Triton that was not started here, "" for the embedded server.
        approval: `automatic` or `manual`, as the last run that named it; "" when none did.
    """

    repository: Path
    url: str = ""
    approval: str = ""


class ServingPaths(Record):
    """Folders of one serving station; everything else has a fixed name below them."""

    workspace: Path = Field(Path("runs/demo"), description="folder of this installation's runs and state")
    repository: Path = Field(Path("triton_repo/models/demo"), description="Triton model repository that is served")
    environment: Path = Field(ROOT / ".venv-serve", description="serving environment with the Triton binary")
    templates: Path = Field(ROOT / "triton_repo" / "templates" / "mira_net", description="tracked model template")

    @property
    def state(self) -> Path:
        """Folder of the server's state, log, key and audit trail."""
        return self.workspace.resolve() / "serving"

    @property
    def server(self) -> Path:
        """State of the running server: process, port, repository."""
        return self.state / "server.json"

    @property
    def last_port(self) -> Path:
        """Port of the last server; the next one takes it again."""
        return self.state / "port"

    @property
    def transport(self) -> Path:
        """Certificates of the server, where it has TLS."""
        return self.state / "transport.json"

    @property
    def supervisor(self) -> Path:
        """State of the supervisor: its process."""
        return self.state / "supervisor.json"

    @property
    def supervisor_log(self) -> Path:
        """What the supervisor saw and did."""
        return self.state / "supervisor.log"

    @property
    def metrics(self) -> Path:
        """The supervisor's figures in Prometheus' text format."""
        return self.state / "mira_serving.prom"

    @property
    def log(self) -> Path:
        """Output of the server."""
        return self.state / "triton.log"

    @property
    def key(self) -> Path:
        """Key of the server's administration protocols; readable by its owner alone."""
        return self.state / "admin.key"

    @property
    def audit(self) -> Path:
        """Hash-chained audit trail."""
        return self.state / "audit.jsonl"

    @property
    def models(self) -> Path:
        """The model repository, absolute."""
        return self.repository.resolve()

    @property
    def served(self) -> Path:
        """What the repository serves and what it can roll back to."""
        return self.models / SERVED_FILE

    @property
    def lock(self) -> Path:
        """Held by whoever changes what is served."""
        return self.models / ".lock"

    @property
    def remembered(self) -> Path:
        """Which repository the workspace serves, for the verbs that come later."""
        return self.state / "repository.json"

    def recall(self) -> Remembered | None:
        """What the workspace keeps, None before the first promotion.

        Raises:
            Damaged: when the record of it cannot be read.
        """
        advice = "Remove it, and name the repository once: --repository DIR"
        return recorded(self.remembered, Remembered, advice) if self.remembered.is_file() else None

    def remember(self, **facts: str) -> None:
        """Note the repository, and other facts, in the workspace; what is not given stays as it is."""
        self._keep(repository=self.models, **facts)

    def remember_approval(self, approval: str) -> None:
        """Note how the runs of this workspace are approved; its repository stays as it is."""
        self._keep(approval=approval)

    def _keep(self, **facts: Path | str) -> None:
        try:
            known = self.recall()
        except Damaged:
            known = None
        fresh = (known or Remembered(repository=self.models)).model_copy(update=facts)
        write_json(self.remembered, fresh.model_dump(mode="json"))

    def approval_of_runs(self) -> str:
        """How the runs of this workspace are approved: `automatic` where none said otherwise."""
        known = self.recall()
        return known.approval or "automatic" if known is not None else "automatic"

    def elsewhere(self) -> str:
        """HOST:PORT of the Triton that serves this repository and was not started here, "" without one."""
        known = self.recall()
        return known.url if known is not None and known.repository == self.models else ""


def recorded(path: Path, kind: type[State], advice: str) -> State:
    """A state file of the station.

    Args:
        path: the file.
        kind: what it holds.
        advice: what to do when it cannot be read.

    Raises:
        Damaged: when it was damaged or edited, or this account may not read it; a server that runs serves on.
    """
    try:
        return kind.model_validate(read_json(path))
    except PermissionError as error:
        raise Damaged(
            f"{path} cannot be read by this account. Give it back to the account that serves, or run this as that one."
        ) from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, too deep, or another one
        raise Damaged(f"{path} is damaged: it cannot be read as {kind.__name__}. {advice}") from error


def station(workspace: Path, repository: Path | None = None) -> ServingPaths:
    """The serving station of a workspace.

    Args:
        workspace: folder of the runs and state.
        repository: Triton model repository; by default the one that the workspace served last, else
            `triton_repo/models/<name of the workspace>`.

    Raises:
        Damaged: when the record of it cannot be read.
    """
    paths = ServingPaths(workspace=workspace, repository=ROOT / "triton_repo" / "models" / workspace.resolve().name)
    if repository is None and (known := paths.recall()) is not None:
        repository = known.repository
    return paths if repository is None else paths.model_copy(update={"repository": repository})


def known_station(workspace: Path, repository: Path | None = None) -> ServingPaths:
    """`station` of a workspace that is there: a misspelt name must leave neither folder nor audit record.

    Raises:
        ConfigurationError: when there is no such folder.
        Damaged: as `station`.
    """
    if not workspace.is_dir():
        raise ConfigurationError(f"There is no workspace {workspace}, so nothing was done. Correct the name.")
    return station(workspace, repository)
