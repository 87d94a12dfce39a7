"""kfp.local in containers, as near to a cluster as one machine comes: each step in its image, without rights.

A step gets the volumes and secrets that the compiled YAML gives it and nothing else, so one that is missing shows.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from pipelines.compile import COMPILED

FACTORY = COMPILED / "factory.yaml"
NETWORKED = {"check_triton", "train", "champion", "fetch_champion", "register", "promote", "restore"}


def images() -> set[str]:
    """Images that the compiled pipeline names."""
    spec = next(iter(yaml.safe_load_all(FACTORY.read_text())))
    return {executor["container"]["image"] for executor in spec["deploymentSpec"]["executors"].values()}


@contextmanager
def containers(
    claims: Mapping[str, Path], secrets: Mapping[str, str], root: Path
) -> Iterator[list[tuple[str, str, int]]]:
    """Let kfp.local run steps in containers while the block runs.

    Args:
        claims: folder of each volume claim.
        secrets: key of each secret.
        root: folder of the run's artifacts.

    Yields:
        What ran: function, image and exit code.
    """
    from docker.types import Mount
    from kfp import local
    from kfp.local import docker_task_handler

    _, platform = yaml.safe_load_all(FACTORY.read_text())
    given = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    ran: list[tuple[str, str, int]] = []

    def run(client: Any, image: str, command: list[str], volumes: dict[str, Any], **rest: Any) -> int:
        """kfp's own removes a container before its exit code is known, and then takes a failure for a success."""
        function = command[command.index("--function_to_execute") + 1]
        step = given.get("exec-" + function.replace("_", "-"), {})
        container = client.containers.create(
            image,
            command,
            volumes=volumes,
            mounts=[Mount(v["mountPath"], str(claims[v["constant"]]), "bind") for v in step.get("pvcMount", [])],
            environment={
                item["envVar"]: secrets[secret["secretName"]]
                for secret in step.get("secretAsEnv", [])
                for item in secret["keyToEnv"]
            },
            network_mode="host" if function in NETWORKED else "none",
            read_only=True,
            cap_drop=["ALL"],
            tmpfs={"/tmp": "mode=1777"},
            **rest,
        )
        try:
            container.start()
            for line in container.logs(stream=True, follow=True):
                print(line.decode(errors="replace"), end="")  # noqa: T201
            code = int(container.wait()["StatusCode"])
        finally:
            container.remove(force=True)
        ran.append((function, image, code))
        return code

    kept = docker_task_handler.run_docker_container
    docker_task_handler.run_docker_container = run
    try:
        local.init(local.DockerRunner(), pipeline_root=str(root), enable_caching=False)
        yield ran
    finally:
        docker_task_handler.run_docker_container = kept
