"""The model repository on disk: staging a release beside the served models, switching versions, undoing it.

```
<repository>/served.json                       what is served, and every release that can be rolled back to
<repository>/<model>/config.pbtxt              GPU world
<repository>/<model>/configs/cpu.pbtxt         CPU world
<repository>/<model>/warmup/                   inputs of the warm-up request
<repository>/<model>/<version>/                model.onnx, model.py, metadata.json, canary.npz, signatures, release/,
                                               and the file of the served precision where that is another one
(release/ keeps the version's configurations)
<repository>/.candidates/<model>/...           a release under test, gone after the promotion
<repository>/<model>_candidate/...             a release that has a share of the series
```
Everything is complete before it is renamed into place, and each model's configuration names the one version it serves.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from components.promote import canary, config_files, signing
from components.promote.exported import Exported
from components.promote.paths import ROOT, SERVED_FILE, ServingPaths, recorded
from components.promote.served import CandidateRecord as CandidateRecord
from components.promote.served import ReleaseRecord as ReleaseRecord
from components.promote.served import Served
from mira.errors import ServingFailed
from mira.storage import hash_file, write_json

CANDIDATES = ".candidates"
OWN_CODE = ROOT / "triton_repo" / "templates" / "mira_net" / "model.py"
CONFIGURATION = ("config.pbtxt", "configs", "warmup")


def read_served(paths: ServingPaths) -> Served:
    """What the repository serves according to its own record.

    Raises:
        ServingFailed: when it cannot be read.
    """
    advice = "Bring it back from a backup; or move it away and promote again, which forgets the older releases."
    return recorded(paths.served, Served, advice) if paths.served.is_file() else Served()


def write_served(paths: ServingPaths, served: Served) -> None:
    """Record what is served; the next start loads exactly this."""
    write_json(paths.served, served.model_dump(mode="json"), durable=True)


@contextmanager
def locked(paths: ServingPaths) -> Iterator[None]:
    """Hold the repository: one change at a time.

    Raises:
        ServingFailed: when another process is changing it.
    """
    paths.models.mkdir(parents=True, exist_ok=True)
    with paths.lock.open("w") as stream:
        try:
            flock(stream, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise ServingFailed("Another promotion, rollback or start is at work here. Try again later.") from error
        yield


def held(paths: ServingPaths) -> bool:
    """Whether somebody is changing the repository, by the kernel's list: who tries the lock holds it for a moment."""
    locks = Path("/proc/locks")
    if not (locks.is_file() and paths.lock.is_file()):
        return False
    place = f":{paths.lock.stat().st_ino} "
    return any("FLOCK" in line and place in line for line in locks.read_text(encoding="ascii").splitlines())


def stage(
    paths: ServingPaths,
    model: Exported,
    version: int,
    parameters: dict[str, str],
    everywhere: dict[str, str] | None = None,
) -> Path:
    """Write a release's model completely into the candidate repository, on the same file system as the served one.

    Args:
        paths: where things lie.
        model: the exported network.
        version: its version.
        parameters: parameters of the python backend: `engine`, `precision` and others; `gpu` is what a Triton with a
            GPU serves.
        everywhere: parameters of either world.

    Returns:
        Folder of the candidate.

    Raises:
        ServingFailed: when the copy differs, a configuration does not parse, or the network cannot run.
    """
    folder = candidates(paths) / model.name
    shutil.rmtree(folder, ignore_errors=True)
    inside = folder / str(version)
    inside.mkdir(parents=True)
    backend = {key: value for key, value in parameters.items() if key != "gpu"}
    on_cpu = backend.get("engine", "openvino"), backend.get("precision", "f32")
    on_gpu = model.gpu_engine(parameters.get("gpu", "f32"))
    (backend["file"], slack), (gpu, gpu_slack) = model.file_of(*on_cpu), model.file_of(*on_gpu)
    for file in {"model.onnx", "metadata.json", signing.SIGNATURE, backend["file"], gpu}:
        shutil.copyfile(model.folder / file, inside / file)
    shutil.copyfile(paths.templates / "model.py", inside / "model.py")
    if hash_file(inside / "model.py") != hash_file(OWN_CODE):
        raise ServingFailed(
            f"{paths.templates / 'model.py'} is not the project's own backend code, and no other is served. "
            "Correct `templates`."
        )
    for engine in (on_cpu, on_gpu):  # the copy is sealed: whoever writes to the export meanwhile changes nothing of it
        replace(model, folder=inside).file_of(*engine)
    if hash_file(inside / "model.onnx") != model.sha256:
        raise ServingFailed(f"{model.name}: the copy of model.onnx differs from the exported file. Check the disk.")
    signed = signing.load_signer().check(inside / signing.SIGNATURE)["metadata_sha256"]
    if {signed, hash_file(inside / "metadata.json")} != {model.metadata_sha256}:
        raise ServingFailed(
            f"{model.name}: metadata.json or its signature was exchanged while it was copied. Find out by whom."
        )
    questions = canary.make(inside / "model.onnx", model.modalities, model.instruction_size)
    canary.save(
        inside / canary.FILE,
        [replace(one, slack=max(given.get(one.modality, 0.0) for given in (slack, gpu_slack))) for one in questions],
    )
    config_files.render(
        paths.templates,
        inside / "release",
        name=model.name,
        version=version,
        instruction_size=model.instruction_size,
        modalities=model.modalities,
        parameters=backend,
        everywhere=everywhere,
        gpu_file=gpu,
        profiles=model.profiles,
        error_map=model.error_map,
    )
    for relative in (config_files.CONFIG, config_files.CPU_CONFIG):
        config_files.parse(inside / "release" / relative)
    shutil.copytree(inside / "release", folder, dirs_exist_ok=True)
    signing.seal(inside, model.name, version)
    _flush(folder)
    return folder


def served_as(paths: ServingPaths, model: str, version: int | None = None) -> dict[str, str]:
    """What a model's configurations choose: `engine` and `precision` on a CPU, and `gpu`, as in the promotion.

    Args:
        paths: where things lie.
        model: name of the model.
        version: one of its versions, to read the configuration that was sealed with it, not the one that Triton reads.
    """
    folder = paths.models / model if version is None else paths.models / model / str(version) / "release"
    cpu = config_files.parse(folder / config_files.CPU_CONFIG).parameters
    known = {key: cpu[key].string_value for key in ("engine", "precision") if key in cpu}
    file = config_files.parse(folder / config_files.CONFIG).default_model_filename
    whole = {"model.onnx": "f32", "model.plan": "plan"}
    return {**known, "gpu": whole.get(file, file.removeprefix("model.").removesuffix(".onnx"))}


def serves_with(paths: ServingPaths, model: str, parameters: dict[str, str]) -> bool:
    """Whether a served model's configurations have the given engine, precision and file for the GPU."""
    wanted = {"gpu": "f32", **parameters}
    return all(wanted.get(key, value) == value for key, value in served_as(paths, model).items())


def candidates(paths: ServingPaths) -> Path:
    """A model repository of its own, with the networks of a release under test."""
    return paths.models / CANDIDATES


def remove_candidates(paths: ServingPaths) -> None:
    """Remove the candidate repository, also what a promotion left behind that was cut off."""
    shutil.rmtree(candidates(paths), ignore_errors=True)


def points_to(paths: ServingPaths, model: str, version: int) -> bool:
    """Whether a model's configurations and warm-up data are those of one of its versions, file by file."""
    folder = paths.models / model
    sealed = _configuration(folder / str(version) / "release")
    return bool(sealed) and _configuration(folder) == sealed


def _configuration(folder: Path) -> dict[str, str]:
    """Hash of each file of the configuration in a folder, "" for what is no plain file."""
    tops = [folder / part for part in CONFIGURATION]
    files = [path for top in tops for path in (top, *(() if top.is_symlink() else top.rglob("*")))]
    return {
        path.relative_to(folder).as_posix(): hash_file(path) if path.is_file() and not path.is_symlink() else ""
        for path in files
        if path.is_symlink() or path.exists()
    }


def verify(paths: ServingPaths, served: Served, version: int) -> None:
    """Check that a release's files are on disk and are those that were promoted, network, code and configuration.

    Raises:
        ServingFailed: naming the model that is not, and a file.
    """
    for model, digest in served.releases[version].artifacts.items():
        folder = paths.models / model
        # Triton's stub writes compiled code there; what is not sealed is made anew from what is
        shutil.rmtree(folder / str(version) / "__pycache__", ignore_errors=True)
        if signing.check_seal(folder / str(version), model, version).get("model.onnx") != digest:
            raise ServingFailed(
                f"{model} version {version} on disk was sealed, but is not the one that {SERVED_FILE} names. "
                "Promote it again, or roll back to another version: mira rollback --to VERSION"
            )
        check_nothing_strange(folder)


def check_nothing_strange(folder: Path) -> None:
    """Check that a model's folder holds versions and configurations alone.

    Raises:
        ServingFailed: naming what else is there: Triton would run a stub of a certain name instead of its own.
    """
    strange = [path.name for path in folder.iterdir() if not (path.name in CONFIGURATION or path.name.isdigit())]
    if strange:
        raise ServingFailed(f"{folder} holds {strange[0]}, which no promotion put there. Remove it.")


def _flush(folder: Path) -> None:
    """Bring all files of a folder to the disk before it is renamed."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
