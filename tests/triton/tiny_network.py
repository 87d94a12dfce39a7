"""A tiny ONNX network with the served signature, and the files of a release made of it."""

import os
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from components.promote import signing
from mira.storage import hash_file, read_json, write_json
from mira.tasks import TASKS, Modality, Task

D = 4
INT8 = ("openvino", "int8", "model.int8.onnx")
PROFILES = [
    {"min": [1, 32, 48], "opt": [8, 256, 320], "max": [8, 512, 320]},
    {"min": [1, 32, 32], "opt": [8, 256, 320], "max": [8, 1024, 1024]},
]
os.environ.setdefault(signing.KEY_VARIABLE, "a key that only the tests of serving know")
TASKS_OF = {"mira_net": list(Task)} | {f"mira_net_{spec.short}": [task] for task, spec in TASKS.items()}


def tiny_network(path: Path, gain: float = 0.1, size: int = D, error_map: bool = False) -> Path:
    """restored = image * (1 + gain * mean(used)); used = own + weight * (given - own); own follows the image's mean.

    With an error map, the expected error is half the absolute value of the restored image.
    """
    f, i = TensorProto.FLOAT, TensorProto.INT64
    inputs = [
        helper.make_tensor_value_info("image", f, ["n", 1, "h", "w"]),
        helper.make_tensor_value_info("modality", i, ["n", 1]),
        helper.make_tensor_value_info("mr_scale", f, ["n", 1]),
        helper.make_tensor_value_info("instruction", f, ["n", size]),
        helper.make_tensor_value_info("instruction_weight", f, ["n", 1]),
    ]
    outputs = [
        helper.make_tensor_value_info("restored", f, ["n", 1, "h", "w"]),
        helper.make_tensor_value_info("modality_probability", f, ["n", 3]),
        helper.make_tensor_value_info("degradation", f, ["n", 1]),
        helper.make_tensor_value_info("instruction_used", f, ["n", size]),
    ]
    constants = {
        "basis": np.linspace(0.2, 1, size, dtype=np.float32)[None],
        "thousand": np.float32(1000),
        "gain": np.float32(gain),
        "one": np.float32(1),
        "last": np.array([1], np.int64),
        "image_rank": np.array([-1, 1, 1, 1], np.int64),
        "axis": np.array([2, 3], np.int64),
        "classes": np.arange(3, dtype=np.int64)[None],
        "five": np.float32(5),
    }
    node = helper.make_node
    nodes = [
        node("ReduceMean", ["image", "axis"], ["mean4"], keepdims=0),
        node("Div", ["mean4", "thousand"], ["mean"]),
        node("Div", ["mr_scale", "thousand"], ["scale"]),
        node("Add", ["mean", "scale"], ["sum"]),
        node("Add", ["sum", "one"], ["level"]),
        node("Mul", ["level", "basis"], ["own"]),
        node("Sub", ["instruction", "own"], ["away"]),
        node("Mul", ["away", "instruction_weight"], ["step"]),
        node("Add", ["own", "step"], ["instruction_used"]),
        node("ReduceMean", ["instruction_used", "last"], ["strength"], keepdims=1),
        node("Mul", ["strength", "gain"], ["push"]),
        node("Add", ["push", "one"], ["factor2"]),
        node("Reshape", ["factor2", "image_rank"], ["factor"]),
        node("Mul", ["image", "factor"], ["restored"]),
        node("Equal", ["modality", "classes"], ["same"]),
        node("Cast", ["same"], ["chosen"], to=f),
        node("Mul", ["chosen", "five"], ["logits"]),
        node("Softmax", ["logits"], ["modality_probability"], axis=1),
        node("Sigmoid", ["level"], ["degradation"]),
    ]
    if error_map:
        outputs.append(helper.make_tensor_value_info("predicted_error", f, ["n", 1, "h", "w"]))
        constants["half"] = np.float32(0.5)
        nodes += [node("Abs", ["restored"], ["size"]), node("Mul", ["size", "half"], ["predicted_error"])]
    used = {name for n in nodes for name in n.input}
    weights = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items() if k in used]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def make_release(
    root: Path,
    version: int,
    gain: float = 0.1,
    models: tuple[str, ...] = ("mira_net",),
    approved: bool = True,
    error_map: bool = False,
):
    """Files of a release: (exported, version folder, decision folder)."""
    exported, registered, decision = root / "exported", root / "version", root / "decision"
    write_json(decision / "decision.json", {"approved": approved, "of": version})
    document = {"name": "mira_net", "version": version, "decision_sha256": hash_file(decision / "decision.json")}
    write_json(registered / "version.json", document | {"networks": {}})
    for index, model in enumerate(models):
        network = tiny_network(exported / model / "model.onnx", gain + 0.01 * index, error_map=error_map)
        describe(network, model, version)
        sign(root, model)
    return exported, registered, decision


def with_engines(root, version=1, share=0.05, gain=0.12, others=()):
    """A release with an int8 file of its own, whose network is a little off, and its entry in metadata.json."""
    files = make_release(root, version)
    network = files[0] / "mira_net"
    entries = []
    for engine, precision, file in (INT8, *others):
        if file.endswith(".plan"):
            (network / file).write_bytes(b"an engine")
        else:
            tiny_network(network / file, gain)
        tolerances = {modality.value: share for modality in Modality}
        facts = {"engine": engine, "precision": precision, "file": file, "sha256": hash_file(network / file)}
        entries.append({**facts, "canary_tolerance": tolerances})
    metadata = read_json(network / "metadata.json")
    write_json(network / "metadata.json", {**metadata, "engines": entries, "profiles": PROFILES})
    sign(root, "mira_net")
    return files


def sign(root: Path, model: str) -> None:
    """Sign a network of a release as its export would."""
    signing.sign_export(root / "exported" / model, read_json(root / "version" / "version.json"))


def describe(network: Path, model: str = "mira_net", version: int = 1, size: int = D) -> None:
    """metadata.json of an exported network; one that was described before may be broken by now."""
    from onnx import load

    known = network.with_name("metadata.json")
    outputs = read_json(known)["outputs"] if known.is_file() else [one.name for one in load(network).graph.output]
    facts = {
        "outputs": outputs,
        "name": model,
        "version": version,
        "tasks": [str(task) for task in TASKS_OF[model]],
        "instruction_dim": size,
        "onnx_sha256": hash_file(network),
    }
    write_json(network.with_name("metadata.json"), facts)
