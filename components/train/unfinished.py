"""The folder of an unfinished training: its name holds all that decides the weights; nothing else is resumed."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from model.training import Settings

# parameters without influence on the weights
NEUTRAL = {"accelerator", "threads", "workers", "tracking_uri", "experiment", "run_name", "work_dir"}


def digest_of_sources(folder: Path) -> str:
    """First digits of the SHA-256 over a package's Python files.

    Unlike `code_version` it tells two states of a changed checkout apart, knows containers without git, and stays the
    same over commits that touch other things.
    """
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(f"{path.name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:8]


def work_folder(
    root: Path,
    network: str,
    settings: "Settings",
    data_version: str,
    begun: Sequence[str],
    say: Callable[[str], None],
) -> Path:
    """The folder of a training's resume point, made when it is missing.

    Its name ends in the digest of the package `model`: a training that other code began is left alone.

    Args:
        root: where unfinished trainings are kept.
        network: what is trained.
        settings: settings; those in `NEUTRAL` do not count.
        data_version: version of the pairs.
        begun: SHA-256 of the weights that it begins from, if any.
        say: told when a training that other code began is not gone on with.
    """
    import model
    from model.training import RESUME_FILE

    decisive = {key: value for key, value in asdict(settings).items() if key not in NEUTRAL}
    facts = json.dumps([network, data_version, decisive, *begun], sort_keys=True)
    stem = f"{network}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
    folder = root / f"{stem}-{digest_of_sources(Path(str(model.__file__)).parent)}"
    others = sorted(path.parent for path in root.glob(f"{stem}-*/{RESUME_FILE}"))
    if others and folder not in others:
        say(f"begins anew: {others[0]} holds this training unfinished, but by other code of `model`")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
