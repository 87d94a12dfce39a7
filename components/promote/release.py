"""Switching a running server from one release to another, and back when anything goes wrong."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from components.promote import audit, canary, server
from components.promote.paths import ServingPaths
from components.promote.repository import (
    ReleaseRecord,
    Served,
    Switch,
    candidates,
    points_to,
    read_served,
    repair,
    verify,
    write_served,
)
from components.promote.triton import TritonAdmin
from mira.errors import MiraError, ServingFailed


def now() -> str:
    """The current moment, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def serve(paths: ServingPaths, port: int | None = None, threads: int = 0) -> server.ServerState:
    """Start the server with what the repository serves, or return the running one, and prove it by canaries.

    A model that is loaded but does not answer (its stub has died) is loaded anew; where that does not help, the
    server is started anew.

    Raises:
        ServingFailed: when it cannot start, or a served model does not answer as it should.
    """
    served = read_served(paths)
    known = server.running(paths)
    if known is None:
        repair(paths, served)
    state = server.start(paths, served.models, port, threads)
    ill = unhealthy(paths, state.url, served)
    if ill and known is not None:
        admin = server.administer(paths, state.url)
        with contextlib.closing(admin), contextlib.suppress(ServingFailed):
            admin.unload(ill, patience_s=3)
            admin.load(ill)
            ill = unhealthy(paths, state.url, served)
        if ill:
            server.stop(paths, patience_s=3)
            repair(paths, served)
            state = server.start(paths, served.models, port or int(state.url.rpartition(":")[2]), threads)
            ill = unhealthy(paths, state.url, served)
    if ill:
        raise ServingFailed(f"{'; '.join(ill.values())}. The log is {paths.log}. Roll back: mira rollback")
    return state


def unhealthy(paths: ServingPaths, url: str, served: Served, tolerance: float = 1e-3) -> dict[str, str]:
    """Models that do not answer their canaries as they should, with what is wrong."""
    ill = {}
    for model in served.models:
        assert served.version is not None
        try:
            questions = _canaries(paths.models, model, served.version)
            canary.check(questions, url, model, served.version, tolerance, deadline_s=20)
        except (ServingFailed, OSError) as error:
            ill[model] = str(error)
    return ill


def rehearse(paths: ServingPaths, models: list[str], version: int, tolerance: float, threads: int) -> float:
    """Serve the staged candidates from a server of their own for a moment, and check their answers.

    So a network that answers wrongly is found before any caller can get an answer of it, and one that brings a server
    down (Triton 2.51 may crash when a model fails its warm-up) brings down this one.

    Returns:
        Largest difference from the expected answers, as a share of the modality's range.

    Raises:
        ServingFailed: when one does not load or answers wrongly.
    """
    stage = paths.model_copy(update={"workspace": paths.state / "rehearsal", "repository": candidates(paths)})
    server.stop(stage)
    try:
        state = server.start(stage, models, threads=threads)
        with contextlib.closing(server.administer(stage, state.url)) as admin:
            for model, reason in admin.failures(models).items():
                raise ServingFailed(f"{model} did not load: {reason}")
        return max(
            canary.check(_canaries(candidates(paths), model, version), state.url, model, version, tolerance)
            for model in models
        )
    finally:
        server.stop(stage, patience_s=10)


def switch_to(
    admin: TritonAdmin,
    paths: ServingPaths,
    version: int,
    record: ReleaseRecord,
    move_alias: Callable[[int], None],
    tolerance: float,
    *,
    staged: bool,
    embedded: bool,
) -> Served:
    """Make a release serve: on disk, in Triton, in `served.json` and in the registry, or nowhere.

    Args:
        admin: the running server.
        paths: where things lie.
        version: the release.
        record: what is known about it.
        move_alias: moves the registry's alias; it may refuse.
        tolerance: for the canaries.
        staged: whether its folders are candidates that still have to be moved into place.
        embedded: whether the server is the one that is started here, so that it may be started anew.

    Returns:
        What is served now.

    Raises:
        ServingFailed: after everything was put back.
    """
    before = read_served(paths)
    models = sorted(record.artifacts)
    after = Served(version=version, since=now(), releases={**before.releases, version: record})
    switch = Switch(paths)
    attempted: list[str] = []
    try:
        for model in models:
            if staged:
                switch.move_in(model, version)
            if not points_to(paths, model, version):
                switch.point(model, version)
        verify(paths, after, version)
        attempted = models
        admin.load(models)
        for model in models:
            canary.check(_canaries(paths.models, model, version), admin.url, model, version, tolerance)
        write_served(paths, after)
        move_alias(version)
    except BaseException as error:
        with contextlib.suppress(OSError):
            write_served(paths, before) if before.version is not None else paths.served.unlink(missing_ok=True)
        switch.undo()
        _return_to(admin, paths, before, attempted, error, embedded)
        raise
    switch.finish()
    with contextlib.suppress(ServingFailed):  # a model that no longer belongs to the release answers a little longer
        admin.unload(set(before.models) - set(models))
    return after


def _return_to(
    admin: TritonAdmin,
    paths: ServingPaths,
    before: Served,
    attempted: list[str],
    cause: BaseException,
    embedded: bool,
) -> None:
    """Load again what served before, and prove it; the embedded server is started anew if it must be."""
    try:
        try:
            admin.load([model for model in attempted if model in before.models])
            admin.unload([model for model in attempted if model not in before.models])
        except ServingFailed:
            if not embedded:
                raise
        if embedded:
            serve(paths)
        elif ill := unhealthy(paths, admin.url, before):
            raise ServingFailed("; ".join(ill.values()))
    except MiraError as error:
        raise ServingFailed(
            f"{cause}. And the version that served before, {before.version}, could not be brought back: {error}. "
            "On disk everything is as it was: run `mira serve`, it starts with that version."
        ) from error


def _canaries(repository: Path, model: str, version: int) -> list[canary.Canary]:
    return canary.load(repository / model / str(version) / canary.FILE)


@contextmanager
def audited(paths: ServingPaths, what: str, who: str, **facts: object) -> Iterator[dict[str, object]]:
    """Write one audit record for the block: done, or failed with the error.

    Yields:
        Facts of the record, which the block may add to; `outcome` is `done` unless it says otherwise.
    """
    record: dict[str, object] = {"outcome": "done", "before": read_served(paths).version, **facts}
    try:
        yield record
    except BaseException as error:
        text = str(error) if isinstance(error, MiraError) else type(error).__name__
        audit.append(paths.audit, what, "failed", who=who, **{**_plain(record), "why": text})
        raise
    audit.append(paths.audit, what, str(record["outcome"]), who=who, **_plain(record))


def _plain(record: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in record.items() if key != "outcome"}
