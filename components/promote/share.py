"""A share of the series for a candidate: `mira canary start`, `stop` and `finish`.

The candidate is checked, sealed and rehearsed like a promotion, and then loaded beside the version that serves. Clients
read its share from the server; `finish` promotes it, anything else that ends the share leaves the version that serves.
"""

import contextlib
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

from components.promote import (
    account,
    canary,
    candidate,
    registry,
    rehearsal,
    release,
    repository,
    server,
    transport,
    where,
)
from components.promote.choice import keep_what_serves
from components.promote.exported import Release, read_release
from components.promote.paths import ServingPaths
from components.promote.remote import local_copy
from components.promote.served import CandidateRecord
from components.promote.step import (
    PromoteConfig,
    PromoteSummary,
    against_policy,
    check_approval,
    check_number,
    promote_release,
)
from mira.cases import Record
from mira.client.share import PARAMETER, candidate_of
from mira.errors import ConfigurationError, ServingFailed
from mira.storage import hash_file


class ShareSummary(Record):
    """What a start or stop of a share did."""

    version: int
    served: int
    share: float
    url: str
    seconds: float
    fell_back: str = ""


def start(exported: Path | str, version: Path, decision: Path, share: float, config: PromoteConfig) -> ShareSummary:
    """Let a candidate restore a share of the series.

    Args:
        exported: what the export step gave, or its address in an artifact store.
        version: version.json of the register step, or its folder.
        decision: decision.json of the gate step, or its folder.
        share: part of the series, above 0 and at most 0.5.
        config: parameters, as for the promotion.

    Raises:
        ConfigurationError: when the share is out of bounds.
        GateFailed: when the decision is no approval, or a person's approval is missing.
        ServingFailed: when anything else fails; then no series goes to the candidate.
    """
    begin = time.monotonic()
    if not 0 < share <= 0.5:
        raise ConfigurationError("A share lies above 0 and at most at 0.5. To serve every series: mira promote")
    if config.url:
        raise ConfigurationError("A share is for the server that `mira serve` started; leave the address out.")
    where.check_here(config, "A share")
    uri = registry.tracking_uri(config, config.tracking_uri)
    with account.disk_has_room(config), account.refusals_recorded(config, "canary-start", config.by):
        folder = local_copy(config, exported, uri).resolve()
        wanted = read_release(folder, version, decision)
    facts = {"version": wanted.version, "decision_sha256": wanted.decision_sha256, "artifacts": wanted.artifacts}
    given = " ".join(filter(None, (config.why, against_policy(config))))
    why = f"{share:.0%} of the series" + (f": {given}" if given else "")
    with (
        account.audited(config, "canary-start", config.by, why=why, **facts) as record,
        repository.locked(config),
        account.disk_has_room(config),
    ):
        check_approval(config, wanted)
        served = repository.read_served(config)
        check_number(config, served, wanted)
        if served.version is None or served.version == wanted.version:
            raise ServingFailed(
                f"Version {wanted.version} serves already."
                if served.version
                else "Nothing serves yet that a candidate could share the series with: mira promote"
            )
        if served.candidate is not None:
            raise ServingFailed(
                f"Version {served.candidate.version} has a share already. First: mira canary stop, or finish."
            )
        url = release.serve(config, config.port, config.threads).url
        config, fell_back = keep_what_serves(config, wanted)
        record["why"] = " ".join(filter(None, (why, fell_back)))
        try:
            names = _stage(config, wanted, share)
            patience = 30 + config.load_timeout_s
            rehearsal.rehearse(config, names, wanted.version, config.canary_tolerance, config.threads, patience)
            beside = CandidateRecord(
                version=wanted.version,
                share=share,
                since=release.now(),
                artifacts={candidate_of(model): digest for model, digest in wanted.artifacts.items()},
                files=(str(folder), version.resolve(), decision.resolve()),
            )
            _put_beside(config, url, beside)
        finally:
            repository.remove_candidates(config)
    return _summary(wanted.version, served.version, share, url, begin, fell_back)


def stop(paths: ServingPaths, why: str = "") -> ShareSummary:
    """End the share: every series goes to the version that serves.

    Raises:
        ConfigurationError: when no candidate has a share.
        ServingFailed: when the server does not let go of it.
    """
    begin = time.monotonic()
    with repository.locked(paths), account.disk_has_room(paths):
        served = repository.read_served(paths)
        if served.candidate is None or served.version is None:
            raise ConfigurationError("No candidate has a share of the series.")
        state = server.running(paths)
        withdraw(paths, why)
    return _summary(served.candidate.version, served.version, 0.0, state.url if state else "", begin)


def finish(config: PromoteConfig) -> PromoteSummary:
    """Promote the candidate that has a share; the promotion is the usual one, with its rehearsal, and ends the share.

    Whatever the parameters say, it serves with the engine, precision and GPU file of its share, which were proven.

    Raises:
        ConfigurationError: when no candidate has a share, or its exported files are gone.
        GateFailed: when the decision is no approval, or a person's approval is missing.
        ServingFailed: when its exported files are not those any more that were given a share, or the promotion fails;
            the share goes on.
    """
    found = repository.read_served(config).candidate
    if found is None:
        raise ConfigurationError("No candidate has a share of the series.")
    exported, version, decision = found.files
    for path in (Path(exported), version, decision):
        if not path.exists():
            raise ConfigurationError(f"{path} is gone. Export the version again and run: mira promote")
    with account.disk_has_room(config), account.refusals_recorded(config, "promote", config.by, version=found.version):
        if why := candidate.unsound(config, repository.read_served(config)):
            raise ServingFailed(why)
        wanted = read_release(Path(exported), version, decision)
        _check_same(config, found, wanted)
        config = config.model_copy(update=repository.served_as(config, min(found.artifacts)))
    return promote_release(wanted, config.state / "promotions" / str(found.version), config)


def withdraw(paths: ServingPaths, why: str) -> None:
    """Withdraw the candidate from the running server, or only from the record when none runs; the lock is held."""
    state = server.running(paths)
    if state is None:
        candidate.withdraw(paths, None, why)
        return
    with contextlib.closing(server.administer(paths, state.url, 20)) as admin:
        candidate.withdraw(paths, admin, why)


def _stage(config: PromoteConfig, wanted: Release, share: float) -> list[str]:
    """Write the candidate's models, under their own names and with the share, into the candidate repository."""
    repository.remove_candidates(config)
    staged = [replace(model, name=candidate_of(model.name)) for model in wanted.models]
    for model in staged:
        repository.stage(config, model, wanted.version, config.backend_parameters(), {PARAMETER: f"{share:g}"})
    return [model.name for model in staged]


def _put_beside(config: PromoteConfig, url: str, record: CandidateRecord) -> None:
    """Record the candidate, load it and prove it; or take all of it back.

    Raises:
        ServingFailed: after it was taken back.
    """
    served = repository.read_served(config)
    names = sorted(record.artifacts)
    with contextlib.closing(server.administer(config, url, config.load_timeout_s)) as admin:
        try:
            for name in names:
                shutil.rmtree(config.models / name, ignore_errors=True)
                os.rename(repository.candidates(config) / name, config.models / name)
            repository.write_served(config, served.model_copy(update={"candidate": record}))
            admin.load(names)
            for name in names:
                questions = canary.load(config.models / name / str(record.version) / canary.FILE)
                canary.check(
                    questions, url, name, record.version, config.canary_tolerance, transport=transport.chosen(config)
                )
        except BaseException:
            server.end_hanging_loads(config, names, record.version)
            candidate.withdraw(config, admin, "it could not be loaded beside the version that serves", "failed")
            candidate.remove_leftovers(config)
            raise


def _check_same(paths: ServingPaths, found: CandidateRecord, now: Release) -> None:
    """Check that what lies where a candidate came from is still that candidate; another one was not proven by a share.

    Raises:
        ServingFailed: naming what differs.
    """
    networks = {candidate_of(model): digest for model, digest in now.artifacts.items()}
    other = {name for name in {*networks, *found.artifacts} if networks.get(name) != found.artifacts.get(name)}
    for model in now.models:  # artifacts are those in f32; another precision is served from another file
        shared = paths.models / candidate_of(model.name) / str(found.version)
        for file in (path for path in shared.glob("model.*") if path.suffix != ".py"):
            given = model.folder / file.name
            if not given.is_file() or hash_file(given) != hash_file(file):
                other.add(candidate_of(model.name))
    if now.version == found.version and not other:
        return
    what = f"version {now.version}" if now.version != found.version else f"other files of {', '.join(sorted(other))}"
    raise ServingFailed(
        f"{found.files[0]} holds {what}, not those of version {found.version}, which has the share. Nothing was "
        "changed. Bring its export back, or end the share (mira canary stop) and start one with what is there now."
    )


def _summary(version: int, served: int, share: float, url: str, begin: float, fell_back: str = "") -> ShareSummary:
    seconds = round(time.monotonic() - begin, 2)
    return ShareSummary(version=version, served=served, share=share, url=url, seconds=seconds, fell_back=fell_back)
