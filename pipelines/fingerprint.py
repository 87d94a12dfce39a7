"""What a cached step cannot see by itself: the sites' files and the project's own code."""

import hashlib
from pathlib import Path

from mira.sites import load_sites
from mira.storage import hash_file, hash_tree

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("mira", "model", "components", "data/expectations", "triton_repo/templates")


def data_fingerprint(sites_file: Path) -> str:
    """Hash of a sites.yaml and of every file of its sites, by content.

    Raises:
        ConfigurationError: when the sites.yaml is not valid.
    """
    sites = load_sites(sites_file)
    digest = hashlib.sha256(hash_file(sites_file).encode())
    for site in sites.sites:
        digest.update(f"{site.id}\0{hash_tree(site.path)}\n".encode())
    return digest.hexdigest()


def code_version(root: Path = ROOT) -> str:
    """Hash of the sources that the steps run, so that a cached result never outlives the code that made it."""
    digest = hashlib.sha256()
    for package in PACKAGES:
        folder = root / package
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            if path.name != "component.py":  # its text is in the compiled pipeline, which has its own cache key
                digest.update(f"{path.relative_to(root).as_posix()}\0{hash_file(path)}\n".encode())
    return digest.hexdigest()[:16]
