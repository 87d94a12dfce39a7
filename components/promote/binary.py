"""The Triton binary of the nvidia-pytriton wheel: installing it, laying it out, and saying why it cannot run.

The wheel carries tritonserver 2.51 with the python backend. Its Python API and dependencies are not used. It predates
security fixes of August 2025, so it serves development and tests on the loopback address; production is NVIDIA's image.
"""

import os
import platform
import shutil
import subprocess
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from components.promote.paths import ROOT
from mira.errors import ServingFailed
from mira.no_telemetry import VARIABLES
from mira.storage import atomic_folder, write_text

WHEEL = "nvidia-pytriton==0.7.0"
PYTHON = "3.11"
MINIMUM_GLIBC = (2, 35)
ALTERNATIVES = (
    "Use a Triton that runs elsewhere (`url` in the promote section of the parameters, `mira restore --server "
    "HOST:PORT`), or restore in process without one (`mira restore --model model.onnx`)."
)


@dataclass(frozen=True)
class TritonBinary:
    """A runnable layout: bin/, lib/, backends/python/ and the environment of the python backend."""

    root: Path
    environment: Path
    python_library: Path | None

    @property
    def executable(self) -> Path:
        """The server."""
        return self.root / "bin" / "tritonserver"

    def variables(self, threads: int) -> dict[str, str]:
        """Environment of the server process: nothing of the caller's but its home, locale and temporary folder.

        The stub finds its Python through `python3` on PATH, and ignores PYTHONPATH and PYTHONHOME.
        """
        libraries = [self.root / "lib"] + ([self.python_library] if self.python_library else [])
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ") if name in os.environ}
        return (
            VARIABLES
            | kept
            | {
                "PATH": f"{self.environment / 'bin'}:/usr/local/bin:/usr/bin:/bin",
                "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
                "OMP_NUM_THREADS": str(threads),
                "OPENBLAS_NUM_THREADS": str(threads),
                "PYTHONDONTWRITEBYTECODE": "1",
            }
        )


def check_machine() -> None:
    """Raise ServingFailed where the binary cannot run, naming what to do instead."""
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in ("x86_64", "aarch64"):
        raise ServingFailed(
            f"The embedded Triton runs on Linux x86-64 and arm64, not on {system} {machine}. {ALTERNATIVES}"
        )
    name, version = platform.libc_ver()
    numbers = tuple(int(part) for part in version.split(".")[:2]) if version else (0, 0)
    if name != "glibc" or numbers < MINIMUM_GLIBC:
        found = f"{name or 'another C library'} {version}".strip()
        raise ServingFailed(f"The embedded Triton needs glibc 2.35 or newer; this machine has {found}. {ALTERNATIVES}")


def install(environment: Path, lock: Path = ROOT / "requirements" / "serve.lock") -> None:
    """Make the serving environment; `make` does the same before it needs one.

    Raises:
        ServingFailed: when Python 3.11 is missing or a package cannot be installed.
    """
    python = shutil.which(f"python{PYTHON}")
    if python is None:
        raise ServingFailed(f"python{PYTHON} was not found on PATH; install it to make the serving environment.")
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    exact = [[*pip, "--no-deps", "-r", str(lock)]]  # the lock names every package, the Triton wheel included
    resolved = [[*pip, "-r", str(lock.with_suffix(".in"))], [*pip, "--no-deps", WHEEL]]
    commands = [[python, "-m", "venv", str(environment)], *(exact if lock.is_file() else resolved)]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise ServingFailed(f"Making {environment} failed at `{' '.join(command)}`: {' '.join(last)}")


def prepare(environment: Path) -> TritonBinary:
    """Lay out the wheel's binary below the serving environment, once, and check that it can run here.

    Raises:
        ServingFailed: on a machine that cannot run it, or when the environment lacks the wheel or a library.
    """
    check_machine()
    environment = environment.absolute()
    if not (environment / "bin" / "python3").exists():
        install(environment)
    packages = environment / "lib" / f"python{PYTHON}" / "site-packages"
    wheel = packages / "pytriton" / "tritonserver"
    if not wheel.is_dir():
        raise ServingFailed(
            f"{environment} does not hold the Triton binary of Python {PYTHON}. Run `make run`, which installs it, or "
            f"`{environment}/bin/pip install --no-deps {WHEEL}`. {ALTERNATIVES}"
        )
    _check_numpy(packages)
    root = environment / "triton"
    if not (root / "complete").is_file():
        _lay_out(wheel, packages / "nvidia_pytriton.libs", root)
    return TritonBinary(root, environment, _python_library(root))


def _check_numpy(packages: Path) -> None:
    found = next((p.name for p in packages.glob("numpy-*.dist-info")), "")
    if not found.startswith("numpy-1."):
        raise ServingFailed(
            f"The serving environment has {found or 'no numpy'}; this Triton silently corrupts data with numpy 2. "
            f"Install it again from requirements/serve.lock: {packages}"
        )


def _lay_out(wheel: Path, libraries: Path, root: Path) -> None:
    """Hard-link the wheel's files into the layout that tritonserver expects; copy where links are not possible."""
    with atomic_folder(root) as temporary:
        copies = [
            (wheel / "bin", temporary / "bin"),
            (wheel / "backends", temporary / "backends"),
            (wheel / "python_backend_stubs" / PYTHON, temporary / "backends" / "python"),
            (libraries, temporary / "lib"),
        ]
        for source, target in copies:
            shutil.copytree(source, target, copy_function=_link, dirs_exist_ok=True)
        write_text(temporary / "complete", WHEEL + "\n")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _python_library(root: Path) -> Path | None:
    """Folder of libpython for the stub when the loader does not find it by itself.

    Raises:
        ServingFailed: when it is nowhere.
    """
    stub = root / "backends" / "python" / "triton_python_backend_stub"
    environment = {"LD_LIBRARY_PATH": str(root / "lib"), "PATH": "/usr/bin:/bin"}
    listed = subprocess.run(["ldd", str(stub)], capture_output=True, text=True, env=environment, check=False).stdout
    missing = sorted({line.split()[0] for line in listed.splitlines() if "not found" in line})
    if not missing:
        return None
    library = f"libpython{PYTHON}.so.1.0"
    folder = Path(sysconfig.get_config_var("LIBDIR") or "/nonexistent")
    if missing == [library] and (folder / library).is_file():
        return folder
    raise ServingFailed(
        f"The embedded Triton lacks {', '.join(missing)}. On Debian or Ubuntu: apt-get install libpython{PYTHON}. "
        f"{ALTERNATIVES}"
    )
