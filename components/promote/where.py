"""Which Triton a promotion or rollback is for: one that runs elsewhere, or the embedded one.

A run of the pipeline asks for it before the hours of training, not after them. The verbs go on with that of the last
promotion that succeeded, which the workspace remembers.
"""

import contextlib
import os
import re

from components.promote import server
from components.promote.paths import ServingPaths
from mira.errors import ConfigurationError, ServingFailed

EMBEDDED = "embedded"
ADDRESS = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^\s/:]+):\d{1,5}")
IN_A_POD = "KFP_POD_NAME"  # Kubeflow gives it to each step in a cluster, kfp.local to none
ADVICE = "Give HOST:PORT of the Triton that serves the pipeline's `repository` (docs/how-to/run-on-a-cluster.md)."


def check(paths: ServingPaths, triton_url: str) -> None:
    """Check that a promotion at the end of a run will have a Triton.

    Args:
        paths: where things lie.
        triton_url: HOST:PORT of a Triton that runs already; `embedded` for the one that promote starts beside itself.

    Raises:
        ConfigurationError: when it is neither, or is `embedded` in a cluster, where that server would end with its pod.
        ServingFailed: when no Triton answers there.
    """
    if triton_url == EMBEDDED:
        if IN_A_POD in os.environ:
            raise ConfigurationError(
                f"`triton_url` is `{EMBEDDED}`: that server would end with the pod of the promote step. {ADVICE}"
            )
        return
    if not ADDRESS.fullmatch(triton_url):
        raise ConfigurationError(f"`triton_url` is {triton_url!r}, which is no HOST:PORT. {ADVICE}")
    with contextlib.closing(server.administer(paths, triton_url)) as admin:
        if not admin.live():
            raise ServingFailed(
                f"No Triton answers at {triton_url}, so the run ends before it has trained anything. Is it up, and may "
                "this step reach its gRPC port? With TLS, `transport.json` of the workspace must name the certificates."
            )


def url_of(triton_url: str) -> str:
    """`url` of the promote step's parameters."""
    return "" if triton_url == EMBEDDED else triton_url


def chosen(paths: ServingPaths, given: str | None) -> str:
    """`url` of what a verb was given: a Triton elsewhere, `embedded`, or None for where the last promotion went."""
    return paths.elsewhere() if given is None else url_of(given)


def remember(paths: ServingPaths, url: str) -> None:
    """Keep for later verbs where a promotion or rollback that succeeded went; the embedded one's address is no other.

    Raises:
        ServingFailed: when it cannot be written; the change is done all the same.
    """
    state = server.running(paths)
    try:
        paths.remember(url="" if state is not None and state.url == url else url)
    except OSError as error:
        raise ServingFailed(
            f"It was done, but {paths.remembered} cannot be written ({error.strerror}): until the next promotion, name "
            "the repository and the server by --repository and --url."
        ) from error


def check_here(paths: ServingPaths, what: str) -> None:
    """Check that what serves is served from here.

    Raises:
        ConfigurationError: when the last promotion went to a Triton elsewhere.
    """
    if url := paths.elsewhere():
        raise ConfigurationError(
            f"{what} is for the server that `mira serve` starts, but this workspace was promoted to that at {url}. "
            "See it with: mira status. To serve from here: mira promote ... --url embedded"
        )
