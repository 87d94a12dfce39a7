"""Promote: put a registered version behind Triton, prove it by real requests, then move the champion alias.

Whatever goes wrong, the version that served before serves on, also after a restart.
"""

import contextlib
import time
from pathlib import Path

from pydantic import Field

from components.promote import account, audit, registry, rehearsal, release, repository, server, where
from components.promote.choice import keep_what_serves
from components.promote.exported import Release, read_release
from components.promote.paths import ServingPaths
from components.promote.remote import local_copy
from components.promote.served import ReleaseRecord, Served
from components.promote.triton import TritonAdmin
from mira.cases import Record
from mira.errors import GateFailed, ServingFailed
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
    # what is not given is as it serves now, where the export allows it (components/promote/choice.py)
    engine: str = Field(
        "openvino",
        pattern="^(openvino|onnxruntime)$",
        description="what runs the network on a CPU; not given: what serves now, and openvino at first",
    )
    precision: str = Field(
        "f32",
        pattern="^(f32|bf16|int8)$",
        description="precision on a CPU, of those that stood the export's test; bf16 and int8 need openvino; not "
        "given: what serves now if it stood, otherwise f32",
    )
    gpu: str = Field(
        "f32",
        pattern="^(f32|fp16|int8|plan)$",
        description="what a Triton with a GPU serves: a graph of that precision, or the engine that "
        "`python -m components.export.tensorrt` built; not given: what serves now if it stood, otherwise f32",
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
        fell_back: which engine or precision of what served before is not kept, and why; "" when all are.
    """

    version: int
    before: int | None
    changed: bool
    url: str
    models: list[str]
    largest_difference: float | None
    champion: int | None
    seconds: float
    fell_back: str = ""


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
    uri = registry.tracking_uri(config, config.tracking_uri)
    with account.disk_has_room(config), account.refusals_recorded(config, "promote", config.by):
        wanted = read_release(local_copy(config, exported, uri), version, decision)
    return promote_release(wanted, out, config)


def promote_of_run(exported: Path, version: Path, decision: Path, out: Path, config: PromoteConfig) -> PromoteSummary:
    """`promote` for a run: the kind of approval that its parameters name is what the verbs take from then on."""
    if "approval" in config.model_fields_set:
        with account.disk_has_room(config):
            config.remember_approval(config.approval)
    return promote(exported, version, decision, out, config)


def promote_release(wanted: Release, out: Path, config: PromoteConfig) -> PromoteSummary:
    """Promote a release that was read and checked.

    Args:
        wanted: the release.
        out: folder of the result; `promotion.json` is written there.
        config: parameters.

    Raises:
        GateFailed: when a person's approval is missing.
        ServingFailed: when anything else fails; what served before serves on.
    """
    begin = time.monotonic()
    uri = registry.tracking_uri(config, config.tracking_uri)
    if not config.remembered.is_file():  # a refusal tells a person to promote again, who need not name it then
        with account.disk_has_room(config):
            config.remember()
    why = " ".join(filter(None, (config.why, against_policy(config))))
    facts = {"version": wanted.version, "decision_sha256": wanted.decision_sha256, "artifacts": wanted.artifacts}
    with (
        account.audited(config, "promote", config.by, why=why, **facts) as record,
        repository.locked(config),
        account.disk_has_room(config),
    ):
        check_approval(config, wanted)
        served = repository.read_served(config)
        before = served.version
        check_number(config, served, wanted)
        if config.url:
            release.repair_elsewhere(config, config.url)
        url = config.url or release.serve_for_change(config, config.port, config.threads).url
        config, fell_back = keep_what_serves(config, wanted)
        record["why"] = " ".join(filter(None, (why, fell_back)))
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
    where.remember(config, config.url)
    summary = PromoteSummary(
        version=wanted.version,
        before=before,
        changed=changed,
        url=url,
        models=sorted(wanted.artifacts),
        largest_difference=difference,
        champion=None if uri == registry.OFF else wanted.version,
        seconds=round(time.monotonic() - begin, 2),
        fell_back=fell_back,
    )
    write_json(out / "promotion.json", summary.model_dump(mode="json"))
    return summary


def check_approval(config: PromoteConfig, wanted: Release) -> None:
    """In manual mode, require a person's approval of exactly this version and decision.

    An approval counts that was written with the signing key: anybody else's line may be forged. One that names no
    decision is of the version's number. Where that number was another decision's, too, as after a registry that was
    begun anew, only an approval of the decision counts.
    """
    if config.approval == "automatic":
        return
    known = [record for record in audit.read(config.audit) if record.version == wanted.version]
    reused = any(record.decision_sha256 not in ("", wanted.decision_sha256) for record in known)
    enough = (wanted.decision_sha256,) if reused else (wanted.decision_sha256, "")
    found = [record for record in known if record.what == "approve" and record.decision_sha256 in enough]
    approvals = [record for record in found if audit.proved(record)]
    broken = audit.verify(config.audit)
    if broken:
        raise GateFailed(f"The audit trail {config.audit} is not whole ({broken}), so no approval in it counts.")
    if not approvals:
        raise GateFailed(
            f"Version {wanted.version} passed the gate and waits for a person: read its report, then run "
            f"`mira approve {wanted.version} --by NAME --why TEXT{' --decision FILE' if reused else ''}` and promote "
            f"again.{' Another decision had this number, too: name the one.' if reused else ''}"
            f"{' One approval in the trail was not written with the signing key and does not count.' if found else ''}"
            " Nothing was changed."
        )


def against_policy(config: PromoteConfig) -> str:
    """What the audit trail must say of a promotion without the approval that the workspace's runs ask for."""
    if config.approval == "automatic" and config.approval_of_runs() == "manual":
        return "(approval automatic, though this workspace's runs ask for a person's)"
    return ""


def check_number(paths: ServingPaths, served: Served, wanted: Release) -> None:
    """Require that a number on record is that of the same networks: another release under it would destroy the first.

    Raises:
        ServingFailed: naming what differs.
    """
    known = served.releases.get(wanted.version)
    if known is None or known.artifacts == wanted.artifacts:
        return
    names = {*known.artifacts, *wanted.artifacts}
    other = sorted(name for name in names if known.artifacts.get(name) != wanted.artifacts.get(name))
    raise ServingFailed(
        f"Version {wanted.version} on record in {paths.models} has another {', '.join(other)} than this export: it was "
        f"promoted {known.promoted} by {known.by}, and is kept. Register the networks anew, which gives them a number "
        "of their own, and export them. After a registry that was begun anew: stop the server (mira serve --stop), and "
        "begin with an empty model repository (--repository DIR), or move the old one away. Nothing was changed."
    )


def _serves_already(config: PromoteConfig, wanted: Release, url: str) -> bool:
    """Whether exactly this release serves, from exactly these files, and answers its canaries.

    One that was changed on disk does not: promoting it again puts it right.
    """
    served = repository.read_served(config)
    if served.version != wanted.version or served.releases[wanted.version].artifacts != wanted.artifacts:
        return False
    try:
        repository.verify(config, served, wanted.version)
    except ServingFailed:
        return False
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
            difference = rehearsal.rehearse(
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
