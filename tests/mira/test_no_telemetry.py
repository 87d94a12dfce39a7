"""No library of the project reports its use to its maker, unless somebody wants it to."""

import os
import subprocess
import sys

import pytest

from components.promote.binary import TritonBinary
from mira.no_telemetry import VARIABLES

SESSION = """
import mira
import onnxruntime
from onnx import TensorProto, helper

value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", value[:1], value[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
"""


def python(code, **changes):
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", code], env={**kept, **changes}, capture_output=True, text=True, check=True
    ).stdout


def test_importing_the_library_is_enough_and_a_choice_stays():
    tell = f"import mira, os; print([os.environ[name] for name in {list(VARIABLES)}])"
    assert python(tell).strip() == str(list(VARIABLES.values()))
    chosen = python(tell, MLFLOW_DISABLE_TELEMETRY="false")
    assert chosen.strip() == str(["false" if n == "MLFLOW_DISABLE_TELEMETRY" else v for n, v in VARIABLES.items()])


def test_onnx_runtime_keeps_no_identifier_of_the_machine(tmp_path):
    pytest.importorskip("onnx")
    python(SESSION, HOME=str(tmp_path))
    assert list(tmp_path.rglob("*onnxruntime*")) == []


def test_mlflow_takes_the_word(tmp_path):
    ask = "import mira; from mlflow.environment_variables import MLFLOW_DISABLE_TELEMETRY as off; print(off.get())"
    assert python(ask).strip() == "True"


def test_the_server_is_told_as_well(tmp_path):
    assert TritonBinary(tmp_path, tmp_path, None).variables(1).items() >= VARIABLES.items()
