"""Promote: put a registered version behind Triton, prove it by real requests, then move the champion alias.

Whatever goes wrong, the version that served before serves on, also after a restart.
"""

import contextlib
import time
from pathlib import Path

from pydantic import Field

from components.promote import account, audit, registry, release, repository, server
from components.promote.exported import Release, read_release
from components.promote.paths import ServingPaths
from components.promote.remote import local_copy
from components.promote.repository import ReleaseRecord
from components.promote.triton import TritonAdmin
from mira.cases import Record
from mira.errors import GateFailed
from mira.storage import write_json


class PromoteConfig(ServingPaths):
    """Parameters of the step."""

    tracking_uri: str = Field(
        "",
        description="MLflow with the champion alias; empty: the workspace's own, else MLFLOW_TRACKING_URI; `off`: none",
    )
    url: str = Field("", description="HOST:PORT of a Triton that serves `repository`; empty: the embedded server")
    port: int | None = Field(None, description="gRPC port of the embedded server; empty: a free one", ge=1, le=65535)
    approval: str = Field(
        "automatic",
        pattern="^(automatic|manual)$",
        description="manual: a person must `mira approve` the version first",
    )
    engine: str = Field("openvino", pattern="^(openvino|onnxruntime)$", description="what runs the network on a CPU")
    precision: str = Field(
        "f32",
        pattern="^(f32|bf16|int8)$",
        description="precision on a CPU, of those that stood the export's test; bf16 and int8 need openvino",
    )
    gpu: str = Field(
        "f32",
        pattern="^(f32|fp16|int8|plan)$",
        description="what a Triton with a GPU serves: a graph of that precision, or the engine that "
        "`python -m components.export.tensorrt` built",
    )
    threads: int = Field(
        0, ge=0, description="threads of each network on a CPU; 0: the number of usable cores, 8 at most"
    )
    load_timeout_s: float = Field(120.0, gt=0, description="longest time for one network to load")
    canary_tolerance: float = Field(
        1e-4,
        gt=0,
        description="largest difference from ONNX Runtime, as a share of the range: 1e-4 is 0.4 HU or 0.002 SUV",
    )
    by: str = Field("", description="who promotes, for the audit trail; empty: the account")
    why: str = Field("", description="why, for the audit trail")

    def backend_parameters(self) -> dict[str, str]:
        """Parameters of the python backend, and what a GPU serves."""
        threads = self.threads or server.usable_cores()
        return {"engine": self.engine, "precision": self.precision, "threads": str(threads), "gpu": self.gpu}


class PromoteSummary(Record):
    """What serves after the step.

    Attributes:
        version: version that serves.
        before: version that served before; None for the first.
        changed: whether anything changed.
        url: HOST:PORT of Triton.
        models: names of the served models.
        largest_difference: of a canary's answer from ONNX Runtime's, as a share of the modality's range.
        champion: version that the registry's alias names; None without a registry.
        seconds: duration of the promotion.
    """

    version: int
    before: int | None
    changed: bool
    url: str
    models: list[str]
    largest_difference: float | None
    champion: int | None
    seconds: float


def promote(exported: Path | str, version: Path, decision: Path, out: Path, config: PromoteConfig) -> PromoteSummary:
    """Promote the networks of one version, all or none of them.

    Args:
        exported: what the export step gave, a folder per network; or its address in an artifact store.
        version: version.json of the register step, or its folder.
        decision: decision.json of the gate step, or its folder.
        out: folder of the result; `promotion.json` is written there.
        config: parameters.

    Raises:
        GateFailed: when the decision is no approval, or a person's approval is missing.
        ServingFailed: when anything else fails; what served before serves on.
    """
    begin = time.monotonic()
    uri = registry.tracking_uri(config, config.tracking_uri)
    with account.disk_has_room(config):
        config.remember()
        with account.refusals_recorded(config, "promote", config.by):
            wanted = read_release(local_copy(config, exported, uri), version, decision)
    facts = {"version": wanted.version, "decision_sha256": wanted.decision_sha256, "artifacts": wanted.artifacts}
    with (
        account.audited(config, "promote", config.by, why=config.why, **facts) as record,
        repository.locked(config),
        account.disk_has_room(config),
    ):
        check_approval(config, wanted)
        before = repository.read_served(config).version
        url = config.url or release.serve(config, config.port, config.threads).url
        difference = None
        changed = not _serves_already(config, wanted, url)
        if changed:
            admin = server.administer(config, url, config.load_timeout_s)
            with contextlib.closing(admin):
                difference = _replace(admin, config, wanted, uri)
        elif uri != registry.OFF and registry.champion(uri) != wanted.version:
            registry.move_champion(uri, wanted.version)
        else:
            record["outcome"] = "unchanged"
    summary = PromoteSummary(
        version=wanted.version,
        before=before,
        changed=changed,
        url=url,
        models=sorted(wanted.artifacts),
        largest_difference=difference,
        champion=None if uri == registry.OFF else wanted.version,
        seconds=round(time.monotonic() - begin, 2),
    )
    write_json(out / "promotion.json", summary.model_dump(mode="json"))
    return summary


def check_approval(config: PromoteConfig, wanted: Release) -> None:
    """In manual mode, require a person's approval of exactly this version and decision."""
    if config.approval == "automatic":
        return
    approvals = [
        record
        for record in audit.read(config.audit)
        if (record.what, record.version) == ("approve", wanted.version)
        and record.decision_sha256 in ("", wanted.decision_sha256)
    ]
    broken = audit.verify(config.audit)
    if broken:
        raise GateFailed(f"The audit trail {config.audit} is not whole ({broken}), so no approval in it counts.")
    if not approvals:
        raise GateFailed(
            f"Version {wanted.version} passed the gate and waits for a person: read its report, then run "
            f"`mira approve {wanted.version} --by NAME --why TEXT` and promote again. Nothing was changed."
        )


def _serves_already(config: PromoteConfig, wanted: Release, url: str) -> bool:
    """Whether exactly this release serves, from exactly these files, and answers its canaries."""
    served = repository.read_served(config)
    if served.version != wanted.version or served.releases[wanted.version].artifacts != wanted.artifacts:
        return False
    repository.verify(config, served, wanted.version)
    if not all(repository.serves_with(config, model, config.backend_parameters()) for model in served.models):
        return False
    return not release.unhealthy(config, url, served)


def _replace(admin: TritonAdmin, config: PromoteConfig, wanted: Release, uri: str) -> float | None:
    """Stage, rehearse and switch; returns the largest difference of a canary in the rehearsal."""
    champion = registry.champion(uri)  # one that is away stops the promotion before the work of a rehearsal
    repository.remove_candidates(config)
    try:
        for model in wanted.models:
            repository.stage(config, model, wanted.version, config.backend_parameters())
        names = [model.name for model in wanted.models]
        difference = None
        if not config.url:  # another machine's Triton may have engines that this one lacks
            difference = release.rehearse(
                config, names, wanted.version, config.canary_tolerance, config.threads, 30 + config.load_timeout_s
            )
        record = ReleaseRecord(
            artifacts=wanted.artifacts,
            decision_sha256=wanted.decision_sha256,
            promoted=release.now(),
            by=config.by or audit.current_user(),
        )
        release.switch_to(
            admin,
            config,
            wanted.version,
            record,
            lambda number: registry.move_champion(uri, champion if number is None else number),
            config.canary_tolerance,
            staged=True,
            embedded=not config.url,
        )
    finally:
        repository.remove_candidates(config)
    return difference
