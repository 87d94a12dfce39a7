"""Is a DICOM file valid? Asked of validators that are not ours.

`dciodvfy` of dicom3tools (Debian package `dicom3tools`) is used where it is on the PATH. dicom-validator is used, too,
where MIRA_DICOM_STANDARD names a folder that its command `validate_iods --standard-path` has filled before, since it
needs a copy of the DICOM standard.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def dciodvfy_messages(path: Path) -> list[str]:
    """All lines that dciodvfy has to say about a file, errors and warnings."""
    run = subprocess.run(["dciodvfy", str(path)], capture_output=True, text=True, errors="replace", timeout=60)
    lines = (run.stdout + run.stderr).splitlines()
    return [line for line in lines if line.startswith(("Error", "Warning"))]


def assert_valid_dicom(*paths: Path) -> None:
    """Fail with the validators' messages when a file has errors; skip when no validator is at hand."""
    dciodvfy, standard = shutil.which("dciodvfy"), os.environ.get("MIRA_DICOM_STANDARD")
    if not dciodvfy and not standard:
        pytest.skip("no DICOM validator: install dicom3tools, or set MIRA_DICOM_STANDARD for dicom-validator")
    assert paths, "no file to validate"
    if dciodvfy:
        found = {path.name: [m for m in dciodvfy_messages(path) if m.startswith("Error")] for path in paths}
        assert not any(found.values()), {name: messages for name, messages in found.items() if messages}
    if standard:
        command = [sys.executable, "-m", "dicom_validator.validate_iods", "--standard-path", standard]
        run = subprocess.run(
            [*command, "--edition", "local", *map(str, paths)], capture_output=True, text=True, timeout=600
        )
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
