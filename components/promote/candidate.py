"""A candidate beside what serves: models of its own, `<model>_candidate`, so that the served ones are never touched.

Whatever happens to it, callers who were sent to it are answered by the version that serves (mira/client/share.py).
"""

import contextlib
import shutil
from pathlib import Path

from components.promote import audit, canary, server, signing, transport
from components.promote.paths import ServingPaths
from components.promote.repository import check_nothing_strange, points_to, read_served, write_served
from components.promote.served import CandidateRecord, Served
from components.promote.triton import TritonAdmin
from mira.client.share import SUFFIX
from mira.errors import MiraError, ServingFailed


def models(served: Served) -> list[str]:
    """Names of the candidate's models; none without a candidate."""
    return sorted(served.candidate.artifacts) if served.candidate else []


def ill(paths: ServingPaths, url: str, served: Served, tolerance: float = 1e-3) -> dict[str, str]:
    """Models of the candidate that are not sealed, or do not answer their canaries as they should, with the reason."""
    found = {}
    for model in models(served):
        assert served.candidate is not None
        version = served.candidate.version
        try:
            _verify(paths, served.candidate, model)
            questions = canary.load(paths.models / model / str(version) / canary.FILE)
            canary.check(questions, url, model, version, tolerance, 20, transport.chosen(paths))
        except (MiraError, OSError) as error:
            found[model] = str(error)
    return found


def unsound(paths: ServingPaths, served: Served) -> str:
    """Why the candidate's files are not those that were given a share; "" when they are."""
    for model in models(served):
        assert served.candidate is not None
        try:
            _verify(paths, served.candidate, model)
        except (MiraError, OSError) as error:
            return str(error)
    return ""


def withdraw(paths: ServingPaths, admin: TritonAdmin | None, why: str, outcome: str = "done") -> None:
    """End the share: all series go to the version that serves, as soon as Triton has unloaded the candidate.

    The record goes first, so that no later start loads the candidate again.

    Args:
        paths: where things lie; the repository is held.
        admin: the running server, None when there is none.
        why: reason, for the audit trail.
        outcome: for the audit trail.

    Raises:
        ServingFailed: when the server does not let go of it.
    """
    served = read_served(paths)
    if served.candidate is None:
        return
    names, version = models(served), served.candidate.version
    write_served(paths, served.model_copy(update={"candidate": None}))
    try:
        if admin is not None:
            admin.unload(names)
    finally:
        remove_leftovers(paths)
        audit.append(paths.audit, "canary-end", outcome, version=version, before=served.version, why=why)


def look_after(paths: ServingPaths, url: str) -> str:
    """Withdraw a candidate that does not answer as it should; returns why, "" when all is well."""
    served = read_served(paths)
    why = "; ".join(ill(paths, url, served).values())
    if why:
        with contextlib.closing(server.administer(paths, url, 20)) as admin:
            withdraw(paths, admin, why, "failed")
    return why


def forget(paths: ServingPaths, admin: TritonAdmin, before: Served, why: str) -> None:
    """Take away what is left of a candidate when a promotion or rollback has already ended its share on record."""
    if before.candidate is None:
        return
    with contextlib.suppress(ServingFailed):  # it answers those who were sent to it a little longer
        admin.unload(models(before))
    remove_leftovers(paths)
    with contextlib.suppress(OSError):  # the change itself is recorded by whoever made it
        audit.append(
            paths.audit, "canary-end", "done", version=before.candidate.version, before=before.version, why=why
        )


def remove_leftovers(paths: ServingPaths) -> None:
    """Remove folders of candidates that no record names, as after a start of a share that was killed."""
    known = models(read_served(paths))
    for folder in paths.models.glob(f"*{SUFFIX}"):
        if folder.name not in known:
            shutil.rmtree(folder, ignore_errors=True)


def _verify(paths: ServingPaths, record: CandidateRecord, model: str) -> None:
    folder: Path = paths.models / model / str(record.version)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    if signing.check_seal(folder, model, record.version).get("model.onnx") != record.artifacts[model]:
        raise ServingFailed(f"{model} version {record.version} was sealed, but is not the one that was given a share.")
    check_nothing_strange(folder.parent)
    if not points_to(paths, model, record.version):
        raise ServingFailed(f"The configuration of {model} was changed since version {record.version} got its share.")
