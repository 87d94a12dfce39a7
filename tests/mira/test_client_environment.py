"""What an application installs with the client, and what it does not."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

# each has its size in docs/how-to/restore-from-an-application.md; the whole is to stay under 150 MB
LIBRARY = {"blake3", "numpy", "pydicom", "nibabel", "pydantic", "PyYAML", "tqdm"}
FACTORY = ("torch", "kfp", "mlflow", "onnxruntime", "openvino", "great_expectations")


def test_the_client_depends_on_the_library_and_tritons_grpc_client_alone():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {re.split(r"[<>=!~\[ ]", one, maxsplit=1)[0] for one in project["dependencies"]}
    assert names == LIBRARY
    (triton,) = project["optional-dependencies"]["client"]
    assert triton.startswith("tritonclient[grpc]")  # [all] and [http] bring perf_analyzer, CUDA's Python and aiohttp
    assert triton.endswith("<2.70")  # which needs ml_dtypes, 24 MB


def test_restoring_a_folder_imports_nothing_of_the_factory():
    modules = "mira.client, mira.client.series, mira.client.verb"
    code = f"import sys, {modules}; print([name for name in {FACTORY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
