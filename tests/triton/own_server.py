"""A real Triton server of a test's own: one network behind the project's model.py, stopped when the block ends."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

from components.promote import server, transport
from components.promote.paths import ServingPaths
from components.promote.transport import PLAIN, Transport
from tests.triton.tiny_network import D, tiny_network

with_server = pytest.mark.skipif(
    not (ServingPaths().environment / "bin" / "python3").exists(),
    reason="the serving environment .venv-serve is missing; run the project's set-up first",
)


def station(
    root: Path,
    network: Path | None = None,
    *,
    gain: float = 0.1,
    instruction: int = D,
    engine: str = "onnxruntime",
    threads: int = 1,
    error_map: bool = False,
) -> ServingPaths:
    """Lay out a repository that serves a network as `mira_net` version 1, without the ceremony of a promotion.

    Args:
        root: an empty folder for everything that the server writes.
        network: an ONNX file to serve; the tiny network by default.
        gain: of the tiny network; 0 makes it the identity.
        instruction: length of the network's instruction.
        engine: openvino or onnxruntime.
        threads: of the engine.
        error_map: whether the network gives its expected error, too.
    """
    paths = ServingPaths(workspace=root / "ws", repository=root / "models")
    folder = paths.models / "mira_net"
    target = folder / "1" / "model.onnx"
    tiny_network(target, gain=gain, size=instruction, error_map=error_map)
    if network is not None:
        shutil.copyfile(network, target)
    shutil.copyfile(paths.templates / "model.py", folder / "1" / "model.py")
    config = text_format.Parse((paths.templates / "configs" / "cpu.pbtxt").read_text(), ModelConfig())
    for tensor in [*config.input, *config.output]:
        if tensor.name.startswith("instruction") and tensor.name != "instruction_weight":
            tensor.dims[:] = [instruction]
    if error_map:
        config.output.add().CopyFrom(config.output[0])
        config.output[-1].name = "predicted_error"
    config.ClearField("model_warmup")
    config.version_policy.specific.versions[:] = [1]
    config.parameters["engine"].string_value = engine
    config.parameters["threads"].string_value = str(threads)
    (folder / "configs").mkdir()
    (folder / "configs" / "cpu.pbtxt").write_text(text_format.MessageToString(config))
    return paths


@contextmanager
def serving(
    root: Path, network: Path | None = None, tls: Transport = PLAIN, **options: object
) -> Iterator[tuple[ServingPaths, str]]:
    """Serve while the block runs; yields the station and the address of its server. Arguments as for `station`."""
    paths = station(root, network, **options)  # type: ignore[arg-type]
    transport.remember(paths, tls)
    try:
        yield paths, server.start(paths, ["mira_net"], threads=1).url
    finally:
        server.stop(paths, patience_s=2)
