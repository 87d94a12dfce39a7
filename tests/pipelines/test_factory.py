"""The compiled pipeline: golden file, documentation, resources, and the same edges as dvc.yaml."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf import json_format
from kfp.pipeline_spec import pipeline_spec_pb2

from pipelines.compile import COMPILED, compile_all
from pipelines.factory import ROOT

STAGES = {"ingest", "validate", "pair", "train", "evaluate"}


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((COMPILED / "factory.yaml").read_text()))


def test_the_compiled_pipeline_is_what_the_sources_compile_to(tmp_path: Path) -> None:
    for fresh in compile_all(tmp_path):
        committed = COMPILED / fresh.name
        assert fresh.read_text() == committed.read_text(), "run `make compile` and commit the YAML"


def test_the_compiled_pipeline_is_a_valid_specification(documents: list[dict[str, Any]]) -> None:
    spec = json_format.ParseDict(documents[0], pipeline_spec_pb2.PipelineSpec())
    assert spec.pipeline_info.name == "mira-factory"
    json_format.ParseDict(documents[1], pipeline_spec_pb2.PlatformSpec())


def test_every_parameter_tells_a_data_scientist_what_it_is(documents: list[dict[str, Any]]) -> None:
    parameters = documents[0]["root"]["inputDefinitions"]["parameters"]
    assert len(parameters) >= 10
    assert [name for name, parameter in parameters.items() if len(parameter.get("description", "")) < 15] == []
    for name, component in documents[0]["components"].items():
        for key, parameter in component.get("inputDefinitions", {}).get("parameters", {}).items():
            if "executorLabel" in component:
                assert parameter.get("description"), f"{name}.{key}"


def test_training_asks_for_a_gpu_and_the_key_comes_from_a_secret(documents: list[dict[str, Any]]) -> None:
    executors = documents[0]["deploymentSpec"]["executors"]
    assert executors["exec-train"]["container"]["resources"]["accelerator"]["resourceCount"] == "1"
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert platform["exec-train"]["tolerations"]
    assert platform["exec-ingest"]["secretAsEnv"][0]["keyToEnv"][0]["envVar"] == "MIRA_PSEUDONYM_KEY"


def test_what_an_earlier_run_left_can_be_read_by_the_steps_that_are_told_of_it(documents: list[dict[str, Any]]) -> None:
    """Splits and baseline of validate and pair, and a start's folder of train, lie on the workspace's volume."""
    platform = documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for step in ("validate", "pair", "train"):
        assert "/mira" in [mount["mountPath"] for mount in platform[f"exec-{step}"]["pvcMount"]]


def test_what_looks_at_the_world_is_never_taken_from_the_cache(documents: list[dict[str, Any]]) -> None:
    tasks: dict[str, dict[str, Any]] = {}
    for component in [documents[0]["root"], *documents[0]["components"].values()]:
        tasks.update(component.get("dag", {}).get("tasks", {}))
    uncached = {name for name, task in tasks.items() if "componentRef" in task and not task.get("cachingOptions")}
    assert {"champion", "promote", "report", "report-2"} <= uncached
    assert not uncached & {"ingest", "validate", "pair", "train", "evaluate", "gate", "export"}


def test_no_run_starts_without_a_triton_to_promote_to(documents: list[dict[str, Any]]) -> None:
    root = documents[0]["root"]
    parameters = root["inputDefinitions"]["parameters"]
    # Kubeflow refuses a run that lacks a value for a parameter with neither of these
    required = {name for name, given in parameters.items() if not {"defaultValue", "isOptional"} & given.keys()}
    assert required == {"triton_url"}
    tasks = root["dag"]["tasks"]
    first = {name for name, task in tasks.items() if not task.get("dependentTasks")}
    assert first == {"check-triton"}
    asked, given = (document["inputs"]["parameters"] for document in (tasks["check-triton"], _promote(documents)))
    assert asked["triton_url"] == {"componentInputParameter": "triton_url"}
    assert given["triton_url"] == {"componentInputParameter": "pipelinechannel--triton_url"}


def _promote(documents: list[dict[str, Any]]) -> dict[str, Any]:
    branches = documents[0]["components"].values()
    return next(tasks["promote"] for b in branches if "promote" in (tasks := b.get("dag", {}).get("tasks", {})))


def _pipeline_edges(spec: dict[str, Any]) -> set[tuple[str, str]]:
    """(producer, consumer) between stages; what lies between two stages is passed through."""
    producers: dict[str, set[str]] = {}
    for name, task in spec["root"]["dag"]["tasks"].items():
        inputs = task.get("inputs", {}).get("artifacts", {}).values()
        stage = "train" if task["componentRef"]["name"].startswith("comp-for-loop") else name
        producers[stage] = {
            "train" if producer.startswith("for-loop") else producer
            for producer in (item.get("taskOutputArtifact", {}).get("producerTask") for item in inputs)
            if producer
        }

    def stages_before(name: str) -> set[str]:
        return {s for p in producers[name] for s in ({p} if p in STAGES else stages_before(p))}

    return {(before, stage) for stage in STAGES for before in stages_before(stage)}


def _dvc_edges() -> set[tuple[str, str]]:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    made: dict[str, str] = {}
    needs: dict[str, list[str]] = {}
    for name, stage in stages.items():
        bodies = [(stage, "")] if "foreach" not in stage else [(stage["do"], str(item)) for item in stage["foreach"]]
        for body, item in bodies:
            for out in body["outs"]:
                path = out if isinstance(out, str) else next(iter(out))
                made[path.replace("${item}", item)] = name
            needs.setdefault(name, []).extend(body["deps"])
    return {(made[dep], name) for name, deps in needs.items() for dep in deps if dep in made and made[dep] in STAGES}


def test_dvc_has_the_same_edges_and_the_same_command_lines(documents: list[dict[str, Any]]) -> None:
    edges = _pipeline_edges(documents[0])
    assert edges == _dvc_edges()
    assert ("pair", "train") in edges
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name in STAGES:
        command = stages[name].get("cmd") or stages[name]["do"]["cmd"]
        assert command.startswith(f"python -m components.{name} ")
        assert "--config params.yaml" in command
