"""Where the serving station keeps its files."""

from pathlib import Path

from pydantic import Field

from mira.cases import Record

ROOT = Path(__file__).resolve().parents[2]


class ServingPaths(Record):
    """Folders of one serving station; everything else has a fixed name below them."""

    workspace: Path = Field(Path("runs/default"), description="folder of this installation's runs and state")
    repository: Path = Field(Path("triton_repo/models"), description="Triton model repository that is served")
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
        return self.models / "served.json"

    @property
    def lock(self) -> Path:
        """Held by whoever changes what is served."""
        return self.models / ".lock"
