"""The step images run: every step of the compiled pipeline in its own, as a cluster starts it.

`make images`, then MIRA_TEST_IMAGES=1 pytest tests/deploy, with DOCKER_HOST naming Docker's or Podman's socket. The
folder of temporary files must be one that this machine's containers can mount.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp import components

from components.promote import server
from components.promote.paths import ServingPaths
from mira.phantom.demo import DemoConfig, make_demo
from tests.deploy.cluster import FACTORY, containers, images
from tests.pipelines.test_run import SMALL, with_gain_of


def why_not() -> str:
    """Why the images cannot be tried here; empty where they can."""
    if os.environ.get("MIRA_TEST_IMAGES") != "1":
        return "asked for by MIRA_TEST_IMAGES=1, after `make images`"
    import docker

    try:
        client = docker.from_env()
        here = {tag for image in client.images.list() for tag in image.tags}
    except docker.errors.DockerException as error:
        return f"no Docker or Podman socket: {error}"
    missing = sorted(images() - here)
    return f"`make images` has not made {', '.join(missing)}" if missing else ""


pytestmark = [pytest.mark.slow, pytest.mark.triton, pytest.mark.skipif(bool(why_not()), reason=why_not())]
SECRETS = {"mira-pseudonym-key": "0123456789abcdef" * 4, "mira-signing-key": "fedcba9876543210" * 4}


@pytest.fixture
def volumes(tmp_path: Path) -> dict[str, Path]:
    """The volume claims, open to the account of the images; `root` is for the run's artifacts."""
    make_demo(tmp_path / "mira-sites", DemoConfig.model_validate(SMALL["demo"]))
    for name in ("mira-workspace", "root"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    return {name: tmp_path / name for name in ("mira-sites", "mira-workspace", "root")}


@pytest.fixture
def triton(volumes: dict[str, Path], tmp_path: Path) -> Iterator[str]:
    """A Triton that runs already and serves the volume's repository."""
    workspace = volumes["mira-workspace"]
    paths = ServingPaths(workspace=tmp_path / "triton", repository=workspace / "triton_repo")
    state = server.start(paths, [])
    try:
        paths.models.chmod(0o777)
        key = workspace / "serving" / paths.key.name
        key.parent.mkdir()
        key.parent.chmod(0o777)
        shutil.copyfile(paths.key, key)
        yield state.url
    finally:
        server.stop(paths)


@pytest.fixture
def mlflow(tmp_path: Path) -> Iterator[str]:
    """An MLflow server that keeps artifacts itself, as the one of a cluster must."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--artifacts-destination", f"{tmp_path}/ml"]
    with (tmp_path / "mlflow.log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            for _ in range(600):
                with socket.socket() as probe:
                    if not probe.connect_ex(("127.0.0.1", port)):
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.mark.timeout(1800)
def test_the_compiled_pipeline_runs_in_its_images(volumes: dict[str, Path], triton: str, mlflow: str) -> None:
    root = volumes.pop("root")
    with containers(volumes, SECRETS, root) as ran:
        pipeline = components.load_component_from_file(str(FACTORY))
        task = pipeline(
            triton_url=triton,
            tracking_uri=mlflow,
            steps_per_task=SMALL["train"]["steps_per_task"],
            train_config={"batch_size": 4, "patch_size": 32, "threads": 1},
            evaluate_config=SMALL["evaluate"],
            policy=json.dumps(with_gain_of(-100.0)),
        )
    assert task.outputs["Output"] == "approved"
    assert {code for *_, code in ran} == {0}
    assert {image for _, image, _ in ran} == images()
    workspace = volumes["mira-workspace"]
    assert (workspace / "report.html").is_file()
    assert len(list((workspace / "restored").rglob("*.dcm"))) >= 6


def test_a_step_that_fails_in_its_container_ends_the_run(volumes: dict[str, Path]) -> None:
    root = volumes.pop("root")
    with containers(volumes, SECRETS, root) as ran, pytest.raises(RuntimeError):
        components.load_component_from_file(str(FACTORY))(triton_url="127.0.0.1:9")
    assert [(function, code) for function, _, code in ran] == [("check_triton", 5)]
