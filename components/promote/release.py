"""Switching a running server from one release to another, and back when anything goes wrong."""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from components.promote import canary, candidate, server, transport
from components.promote.paths import ServingPaths
from components.promote.repository import points_to, read_served, verify
from components.promote.served import ReleaseRecord, Served
from components.promote.switch import Switch, repair
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
        candidate.remove_leftovers(paths)
        if why := candidate.unsound(paths, served):
            candidate.withdraw(paths, None, why, "failed")
            served = read_served(paths)
    state = server.start(paths, [*served.models, *candidate.models(served)], port, threads)
    ill = unhealthy(paths, state.url, served)
    if known is not None and (ill or _hanging(paths, state.url)):
        ill = _revive(paths, state.url, served, ill)
        if ill or _hanging(paths, state.url):
            server.stop(paths, patience_s=3)
            state = server.start(paths, [*served.models, *candidate.models(served)], port, threads)
            ill = unhealthy(paths, state.url, served)
    if ill:
        raise ServingFailed(f"{'; '.join(ill.values())}. The log is {paths.log}. Roll back: mira rollback")
    candidate.look_after(paths, state.url)
    return state


def serve_for_change(paths: ServingPaths, port: int | None = None, threads: int = 0) -> server.ServerState:
    """The running server for a promotion or rollback, with what serves where that can be served.

    A version that is damaged or ill must not stand in the way of the one that is to replace it.

    Raises:
        ServingFailed: when the server that runs is of another repository, or not even an empty one can be started.
    """
    try:
        return serve(paths, port, threads)
    except ServingFailed:
        state = server.running(paths)
        if state is not None and state.repository != paths.models:
            raise
        return state or server.start(paths, [], port, threads)


def repair_elsewhere(paths: ServingPaths, url: str) -> None:
    """Undo what a killed change left behind, for a Triton that was not started here: on disk, and in what it loaded.

    What served before may be damaged or ill; it must not stand in the way of the version that is to replace it.
    """
    served = read_served(paths)
    with contextlib.suppress(ServingFailed):
        repair(paths, served)
        if ill := unhealthy(paths, url, served):
            with contextlib.closing(server.administer(paths, url, 10)) as admin:
                admin.load(ill)


def _hanging(paths: ServingPaths, url: str) -> list[str]:
    """Models for which a load hangs: they answer, but no later load of them would ever end."""
    with contextlib.closing(server.administer(paths, url)) as admin:
        try:
            return admin.settle(admin.index(states=("LOADING",)))
        except ServingFailed:
            return []


def _revive(paths: ServingPaths, url: str, served: Served, ill: dict[str, str]) -> dict[str, str]:
    """Mend models in the running server; returns those that are still ill.

    First the version that is recorded is loaded, which swaps a wrong one without a pause; then models are unloaded
    and loaded, since a load alone does nothing for a model whose stub has died.
    """
    repair(paths, served)
    with contextlib.closing(server.administer(paths, url, 10)) as admin:
        for unload in (False, True):
            with contextlib.suppress(ServingFailed):
                if ill and unload:
                    admin.unload(ill, patience_s=3)
                admin.load(ill)
            if ill:
                ill = unhealthy(paths, url, served)
    return ill


def unhealthy(paths: ServingPaths, url: str, served: Served, tolerance: float = 1e-3) -> dict[str, str]:
    """Models that do not answer their canaries as they should, with what is wrong."""
    ill = {}
    for model in served.models:
        assert served.version is not None
        try:
            questions = canary.of(paths.models, model, served.version)
            canary.check(questions, url, model, served.version, tolerance, 20, transport.chosen(paths))
        except (ServingFailed, OSError) as error:
            ill[model] = str(error)
    return ill


def switch_to(
    admin: TritonAdmin,
    paths: ServingPaths,
    version: int,
    record: ReleaseRecord,
    move_alias: Callable[[int | None], None],
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
        move_alias: moves the registry's alias; it may refuse. It is asked before Triton is, so that a registry that
            is away stops the release before any caller gets an answer of it.
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
    after = Served(
        version=version,
        since=now(),
        releases={**before.releases, version: record},
        predecessors=before.before_when(version, going_back=not staged),
    )
    switch = Switch(paths)
    attempted: list[str] = []
    own: list[str] = []
    alias_asked = False
    try:
        own = _loaded(admin)
        for model in models:
            if staged:
                switch.move_in(model, version)
            if not points_to(paths, model, version):
                switch.point(model, version)
        verify(paths, after, version)
        alias_asked = True
        move_alias(version)
        attempted = models
        admin.load(models)
        for model in models:
            questions = canary.of(paths.models, model, version)
            canary.check(questions, admin.url, model, version, tolerance, transport=transport.chosen(paths))
        switch.record(after)
    except BaseException as error:
        with _alias_goes_back(move_alias, before, error) if alias_asked else contextlib.nullcontext():
            if embedded:
                server.end_hanging_loads(paths, attempted, version)
            switch.undo()
            _return_to(admin, paths, before, attempted, own, error, embedded)
        raise
    switch.finish()
    with contextlib.suppress(ServingFailed):  # a model that no longer belongs to the release answers a little longer
        admin.unload(set(before.models) - set(models))
    candidate.forget(paths, admin, before, f"version {version} serves every series now")
    return after


def _loaded(admin: TritonAdmin) -> list[str]:
    """Models that the server has loaded; none of a server that does not answer."""
    try:
        return sorted(admin.index())
    except ServingFailed:
        return []


@contextmanager
def _alias_goes_back(move_alias: Callable[[int | None], None], before: Served, cause: BaseException) -> Iterator[None]:
    """Move the alias back after the block, which brings the server back, even where it cannot."""
    worst, serves = cause, f" Version {before.version} serves."
    try:
        yield
    except BaseException as error:
        worst, serves = error, ""
        raise
    finally:
        try:
            move_alias(before.version)
        except ServingFailed as error:
            raise ServingFailed(
                f"{worst}{serves} Whether MLflow's champion is version {before.version} again is not known: "
                f"`mira status` says it when MLflow answers, and `mira rollback --to {before.version}` settles it."
            ) from error


def _return_to(
    admin: TritonAdmin,
    paths: ServingPaths,
    before: Served,
    attempted: list[str],
    own: list[str],
    cause: BaseException,
    embedded: bool,
) -> None:
    """Load again what served before, and prove it; the embedded server is started anew if it must be.

    What a Triton elsewhere had loaded (`own`) stays: it may serve another repository than the one that was named.
    """
    try:
        try:
            if admin.settle(attempted, patience_s=0):
                raise ServingFailed("a load hangs")
            admin.load([model for model in attempted if model in before.models])
            kept = before.models if embedded else {*before.models, *own}
            admin.unload([model for model in attempted if model not in kept])
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
            "On disk everything is as it was: "
            + ("run `mira serve`, it starts" if embedded else f"`mira rollback --to {before.version}` tries again")
            + " with that version."
        ) from error
