"""The environment of a training, for its record: code version, packages, processor."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

import mira


def code_version() -> str:
    """What `git describe` says of the checkout, or the version of the package outside one."""
    root = Path(__file__).resolve().parents[2]
    if (root / ".git").exists():
        told = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--tags"], capture_output=True, text=True
        )
        if told.returncode == 0 and told.stdout.strip():
            return told.stdout.strip()
    return mira.__version__


def packages() -> str:
    """Every installed package as `name==version`, one a line."""
    found = {
        (distribution.metadata["Name"] or "").lower(): distribution.version for distribution in metadata.distributions()
    }
    return "".join(f"{name}=={version}\n" for name, version in sorted(found.items()) if name)


def machine() -> dict[str, str]:
    """Python, system and processor; no host or user name."""
    import torch

    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "threads": str(torch.get_num_threads()),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }
