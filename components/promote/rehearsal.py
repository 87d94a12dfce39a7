"""The rehearsal: a release under test is served from a Triton of its own before anybody can get an answer of it."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

from components.promote import canary, server
from components.promote.paths import ServingPaths
from components.promote.repository import candidates
from mira.errors import ServingFailed


def rehearse(
    paths: ServingPaths, models: list[str], version: int, tolerance: float, threads: int, patience_s: float
) -> float:
    """Serve the staged candidates from a server of their own for a moment, and check their answers.

    So a network that answers wrongly is found before any caller can get an answer of it, and one that brings a server
    down (Triton 2.51 may crash when a model fails its warm-up) brings down this one.

    Args:
        paths: where things lie.
        models: names of the candidates.
        version: their version.
        tolerance: for the canaries.
        threads: threads of each network.
        patience_s: longest time for the server to start and load them all.

    Returns:
        Largest difference from the expected answers, as a share of the modality's range.

    Raises:
        ServingFailed: when one does not load or answers wrongly.
    """
    with rehearsal(paths, models, threads, patience_s) as url:
        return max(
            canary.check(canary.of(candidates(paths), model, version), url, model, version, tolerance)
            for model in models
        )


@contextmanager
def rehearsal(paths: ServingPaths, models: list[str], threads: int, patience_s: float) -> Iterator[str]:
    """A server of the staged candidates, for as long as the block lasts.

    Yields:
        Its HOST:PORT.

    Raises:
        ServingFailed: when it does not start, or a candidate does not load.
    """
    stage = paths.model_copy(update={"workspace": paths.state / "rehearsal", "repository": candidates(paths)})
    server.stop(stage)
    try:
        state = server.start(stage, models, threads=threads, patience_s=patience_s)
        with contextlib.closing(server.administer(stage, state.url)) as admin:
            for model, reason in admin.failures(models).items():
                raise ServingFailed(f"{model} did not load: {reason}")
        yield state.url
    finally:
        server.stop(stage, patience_s=10)
