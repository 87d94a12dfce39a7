"""Rollback: serve a release again that was promoted before and is still on disk."""

import contextlib
import time

from components.promote import account, registry, release, repository, server, share, switch, where
from components.promote.paths import ServingPaths
from mira.cases import Record
from mira.errors import ConfigurationError, ServingFailed


class RollbackSummary(Record):
    """What serves after a rollback."""

    version: int
    before: int | None
    url: str
    seconds: float


def rollback(
    paths: ServingPaths,
    to: int | None = None,
    tracking_uri: str = "",
    why: str = "",
    tolerance: float = 1e-3,
    url: str | None = None,
) -> RollbackSummary:
    """Serve an older release (or any other that was promoted); what serves now stays on disk.

    While a candidate has a share of the series, going back without naming a version ends that share and nothing else.

    Args:
        paths: where things lie.
        to: version; what served before by default.
        tracking_uri: MLflow with the champion alias, as in the promote step.
        why: reason, for the audit trail.
        tolerance: for the canaries, as a share of the modality's range.
        url: HOST:PORT of a Triton that serves the repository, `embedded` for the one that is started here; by default
            where the last promotion went.

    Raises:
        ConfigurationError: when there is no such version.
        ServingFailed: when it does not serve; what served before serves on.
    """
    begin = time.monotonic()
    uri, elsewhere = registry.tracking_uri(paths, tracking_uri), where.chosen(paths, url)
    with (
        account.audited(paths, "rollback", "", why=why, version=to) as record,
        repository.locked(paths),
        account.disk_has_room(paths),
    ):
        served = repository.read_served(paths)
        if to is None and served.candidate is not None and served.version is not None:
            record["version"] = served.version
            share.withdraw(paths, why or "rollback")
            state = server.running(paths)
            seconds = round(time.monotonic() - begin, 2)
            return RollbackSummary(
                version=served.version, before=served.candidate.version, url=state.url if state else "", seconds=seconds
            )
        target = served.previous if to is None else to
        if target not in served.releases:
            known = ", ".join(map(str, sorted(served.releases))) or "none"
            wanted = (
                "There is no version before the one that serves"
                if to is None
                else f"Version {to} was never promoted here"
            )
            raise ConfigurationError(f"{wanted}. Versions on disk: {known}. Choose one: mira rollback --to VERSION")
        chosen = served.releases[target]
        record.update(version=target, decision_sha256=chosen.decision_sha256, artifacts=chosen.artifacts)
        switch.remove_half_copied(paths)
        repository.verify(paths, served, target)
        if elsewhere:
            _check_live(paths, elsewhere)
            release.repair_elsewhere(paths, elsewhere)
        url = elsewhere or release.serve_for_change(paths).url
        admin = server.administer(paths, url)
        with contextlib.closing(admin):
            release.switch_to(
                admin,
                paths,
                target,
                chosen,
                lambda number: registry.move_champion(uri, number),
                tolerance,
                staged=False,
                embedded=not elsewhere,
            )
    where.remember(paths, elsewhere)
    return RollbackSummary(version=target, before=served.version, url=url, seconds=round(time.monotonic() - begin, 2))


def _check_live(paths: ServingPaths, url: str) -> None:
    with contextlib.closing(server.administer(paths, url)) as admin:
        if not admin.live():
            raise ServingFailed(
                f"No Triton answers at {url}, so nothing was changed. Bring "
                "it up, or serve from here: mira rollback --url embedded"
            )
