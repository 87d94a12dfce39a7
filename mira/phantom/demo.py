"""The demo data: an inbox of DICOM for every site, the truth beside it, and the sites.yaml that names them."""

import hashlib
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import yaml

from mira.errors import ConfigurationError
from mira.phantom.config import DemoConfig
from mira.phantom.fleet import SITES
from mira.phantom.patient import make_patient
from mira.progress import track
from mira.storage import hash_tree, read_json, write_json, write_text

__all__ = ["DemoConfig", "make_demo"]

_MARKER = "demo.json"
_STAGING = ".partial-demo"


def make_demo(root: Path, config: DemoConfig, *, processes: int | None = None) -> Path:
    """Write the demo data below a folder, or return at once when the same are already there.

    Layout: `<root>/inbox/<site>/...` as vendors export, `<root>/truth/<site>/<patient id>.json` with the lesions keyed
    by SeriesInstanceUID, `<root>/sites.yaml`, and last `<root>/demo.json`, which says what they were made from.
    A run that is cut off leaves the old data; the next one starts over.

    Args:
        root: folder; made when absent.
        config: seed and sizes.
        processes: worker processes; by default the number of cores, at most 8.

    Returns:
        Path of the sites.yaml.

    Raises:
        ConfigurationError: when the folder has an `inbox` that is no demo's.
    """
    sites_file = root / "sites.yaml"
    recipe = {"config": config.model_dump(mode="json"), "generator": _generator()}
    marker = root / _MARKER
    if marker.is_file():
        found = read_json(marker)
        made_from = {key: found.get(key) for key in recipe}
        if made_from == recipe and sites_file.is_file() and found.get("content") == _content(root):
            return sites_file
    else:
        foreign = [name for name in ("inbox", "truth", "sites.yaml") if (root / name).exists()]
        if foreign and not (root / _STAGING).exists():
            raise ConfigurationError(
                f"{root} has {', '.join(foreign)}, not written by `mira demo`. Choose another or an empty folder."
            )
    staging = root / _STAGING
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    _make_patients(staging, config, processes)
    marker.unlink(missing_ok=True)
    for name in ("inbox", "truth"):
        shutil.rmtree(root / name, ignore_errors=True)
        os.replace(staging / name, root / name)
    write_text(sites_file, _sites_yaml())
    write_json(marker, {**recipe, "content": _content(root)})
    shutil.rmtree(staging)
    return sites_file


def _make_patients(staging: Path, config: DemoConfig, processes: int | None) -> None:
    jobs = [
        (staging, config, site.id, number)
        for site in SITES
        for number in range(1, (config.patients_per_site if site.role == "train" else config.local_patients) + 1)
    ]
    workers = min(processes or min(os.cpu_count() or 1, 8), len(jobs))
    if workers == 1:
        for job in track(jobs, "phantoms", total=len(jobs), unit="patient"):
            make_patient(*job)
        return
    # fresh processes: a fork of a process that already runs threads may hang
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(make_patient, *job) for job in jobs]
        for future in track(as_completed(waiting), "phantoms", total=len(jobs), unit="patient"):
            future.result()


def _generator() -> str:
    """Hash of the code that makes the data: other code, other data."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _content(root: Path) -> dict[str, str]:
    return {name: hash_tree(root / name) for name in ("inbox", "truth") if (root / name).is_dir()}


def _sites_yaml() -> str:
    entries: list[dict[str, Any]] = [
        {"id": site.id, "role": site.role, "path": f"inbox/{site.id}", "minimum_cases": 1, "remark": site.remark}
        for site in SITES
    ]
    head = "# Demo sites, written by `mira demo`: digital phantoms, no patients.\n"
    return head + yaml.safe_dump({"sites": entries}, sort_keys=False, width=120)


def describe(root: Path) -> dict[str, Any]:
    """What a demo folder was made from, and how much it holds.

    Args:
        root: a folder that `make_demo` wrote.
    """
    marker: dict[str, Any] = json.loads((root / _MARKER).read_text(encoding="utf-8"))
    files = [path for path in (root / "inbox").rglob("*") if path.is_file()]
    return {
        "sites": [site.id for site in SITES],
        "config": marker["config"],
        "files": len(files),
        "megabytes": round(sum(path.stat().st_size for path in files) / 1e6, 1),
    }
