"""What serves now, since when, decided by what, and whether server, repository, registry and audit trail agree."""

import contextlib

from components.promote import account, audit, candidate, registry, release, server, supervisor
from components.promote.paths import ServingPaths
from components.promote.repository import held, points_to, read_served, verify
from mira.cases import Record
from mira.client.share import SUFFIX
from mira.errors import MiraError, ServingFailed


class Status(Record):
    """The serving station.

    Attributes:
        running: whether the server answers: the embedded one, or the Triton elsewhere that the last promotion went to.
        elsewhere: whether it is one that was not started here.
        supervised: whether a supervisor looks after it.
        url: HOST:PORT of it, "" when the embedded one does not run.
        started: when it was started, UTC; "" elsewhere.
        version: release that is recorded as served.
        since: when it began to serve, UTC.
        models: version of each model that the server has loaded.
        engines: what runs each of them, and in which precision, e.g. `openvino int8`.
        answers: whether every model answers its canary requests as expected.
        decision_sha256: hash of the gate decision behind the release.
        promoted_by: who promoted it.
        releases: versions that can be rolled back to, the served one included.
        candidate: version that has a share of the series beside the served one, None without one.
        candidate_share: that share, 0 to 1.
        candidate_since: since when, UTC.
        candidate_answers: whether it answers its canary requests as expected.
        champion: version that the registry's alias names.
        registry_error: why the registry could not be asked, "" when it could.
        audit_records: length of the audit trail.
        audit_fault: what is wrong with the trail, "" when it is whole.
        audit_end_known: whether this account has the key that tells whether the trail's last lines are there.
        changing: the promotion, rollback or start of a share that is under way, "" without one.
        disagreements: everything that does not fit together, in words; while something is changing, it passes with it.
    """

    running: bool
    elsewhere: bool
    supervised: bool
    url: str
    started: str
    version: int | None
    since: str
    models: dict[str, list[int]]
    engines: dict[str, str]
    answers: bool
    decision_sha256: str
    promoted_by: str
    releases: list[int]
    candidate: int | None
    candidate_share: float
    candidate_since: str
    candidate_answers: bool
    champion: int | None
    registry_error: str
    audit_records: int
    audit_fault: str
    audit_end_known: bool
    changing: str
    disagreements: list[str]


def read(paths: ServingPaths, tracking_uri: str = "") -> Status:
    """Ask everyone involved; nothing is changed."""
    begun = _changing(paths, audit.read(paths.audit))
    served = read_served(paths)
    here, elsewhere = server.running(paths), paths.elsewhere()
    url = elsewhere or (here.url if here else "")
    models: dict[str, list[int]] = {}
    engines: dict[str, str] = {}
    ill: dict[str, str] = {}
    ill_candidate: dict[str, str] = {}
    running = bool(url)
    if running:
        with contextlib.closing(server.administer(paths, url)) as admin:
            try:
                running = not elsewhere or admin.live()
                models = admin.index()
                engines = {model: admin.engine(model) for model in models}
                ill = release.unhealthy(paths, url, served)
                ill_candidate = candidate.ill(paths, url, served)
            except ServingFailed as error:
                ill = dict.fromkeys(served.models or ["server"], str(error))
    uri, champion, registry_error = registry.tracking_uri(paths, tracking_uri), None, ""
    try:
        champion = registry.champion(uri)
    except ServingFailed as error:
        registry_error = str(error)
    records = audit.read(paths.audit)
    changing = begun or _changing(paths, records)  # it may have ended or begun while the others were asked
    if served.version is not None and not changing:  # a change checks what it leaves behind
        try:
            verify(paths, served, served.version)
        except MiraError as error:
            ill.setdefault("integrity", str(error))
    fault = audit.verify(paths.audit)
    record = served.releases.get(served.version) if served.version is not None else None
    disagreements = [*ill.values(), *ill_candidate.values()]
    strange = [name for name in models if name.endswith(SUFFIX) and name not in candidate.models(served)]
    disagreements += [
        f"{name} is loaded, but has no share on record: mira serve --stop, then mira serve" for name in strange
    ]
    if elsewhere and here:
        disagreements.append(f"A server of this workspace runs at {here.url} as well: mira serve --stop")
    if running and served.version is not None:
        wrong = [model for model in served.models if models.get(model) != [served.version]]
        disagreements += [
            f"{model}: the server has version {models.get(model, 'none')}, not {served.version}" for model in wrong
        ]
    if served.version is not None:
        disagreements += [
            f"{model}: the configuration on disk is not that of version {served.version}; "
            f"{'the next promotion or rollback' if elsewhere else '`mira serve`'} puts it right."
            for model in served.models
            if not points_to(paths, model, served.version)
        ]
    if uri != registry.OFF and not registry_error and champion != served.version:
        disagreements.append(
            f"MLflow's champion is version {champion}, but {served.version} is served. Promote or roll back again."
        )
    if fault:
        disagreements.append(f"audit trail: {fault}")
    return Status(
        running=running,
        elsewhere=bool(elsewhere),
        supervised=not elsewhere and supervisor.running(paths) is not None,
        url=url,
        started=here.started if here and not elsewhere else "",
        version=served.version,
        since=served.since,
        models=models,
        engines=engines,
        answers=running and served.version is not None and not ill,
        decision_sha256=record.decision_sha256 if record else "",
        promoted_by=record.by if record else "",
        releases=sorted(served.releases),
        candidate=served.candidate.version if served.candidate else None,
        candidate_share=served.candidate.share if served.candidate else 0.0,
        candidate_since=served.candidate.since if served.candidate else "",
        candidate_answers=bool(candidate.models(served))
        and not ill_candidate
        and set(candidate.models(served)) <= set(models),
        champion=champion,
        registry_error=registry_error,
        audit_records=len(records),
        audit_fault=fault,
        audit_end_known=audit.end_known(paths.audit),
        changing=changing,
        disagreements=disagreements,
    )


def _changing(paths: ServingPaths, records: list[audit.AuditRecord]) -> str:
    """What is under way: begun, not ended, and the repository is held; after a change that was killed it is not."""
    last = next((record for record in reversed(records) if record.what in account.BEGUN), None)
    if last is None or last.outcome != "begun" or not held(paths):
        return ""
    return f"{last.what}{f' of version {last.version}' if last.version is not None else ''}, begun {last.time}"


def _server(status: Status) -> str:
    if status.elsewhere:
        return f"server       {status.url}, not started here, {'answers' if status.running else 'does NOT answer'}"
    if not status.running:
        return "server       not running (mira serve)"
    return f"server       {status.url}, up since {status.started}, {'' if status.supervised else 'not '}supervised"


def describe(status: Status) -> str:
    """The status in words for a terminal."""
    lines = [_server(status)]
    if status.version is None:
        lines.append("serves       nothing: no version was promoted yet")
    else:
        lines.append(f"serves       version {status.version} since {status.since}")
        lines += [
            f"             {model} version {', '.join(map(str, versions))}, {status.engines.get(model) or 'gone'}"
            for model, versions in sorted(status.models.items())
        ]
        lines.append(
            f"answers      {'as expected on canary requests' if status.answers else 'NOT proved by canary requests'}"
        )
        lines.append(f"decided by   gate decision {status.decision_sha256[:12]}, promoted by {status.promoted_by}")
        if status.candidate is not None:
            proved = "as expected on canary requests" if status.candidate_answers else "NOT as expected"
            lines.append(
                f"candidate    version {status.candidate} restores {status.candidate_share:.0%} of the series since "
                f"{status.candidate_since}, answers {proved}"
            )
        lines.append(f"releases     {', '.join(map(str, status.releases))} on disk")
    champion = status.registry_error or (f"version {status.champion}" if status.champion else "none known")
    lines.append(f"champion     {champion}")
    whole = "whole" if status.audit_end_known else "whole as far as can be said without the signing key"
    lines.append(f"audit trail  {status.audit_records} records, {status.audit_fault or whole}")
    if status.changing:
        lines.append(f"changing     {status.changing}; what does not agree yet passes with it")
    word = "not yet     " if status.changing else "DISAGREES   "
    lines += [f"{word} {text}" for text in status.disagreements]
    return "\n".join(lines)
