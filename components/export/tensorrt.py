"""`python -m components.export.tensorrt`: a TensorRT engine of an exported network, checked and signed, on a GPU node.

It is run on the node whose GPU will serve, in an image with the same TensorRT as the Triton that serves (an engine is
bound to both), after the export step and before promotion:

    python -m components.export.tensorrt --network exported/mira_net --checkpoint networks/unified --pairs pairs

With `--check` it needs no GPU: TensorRT-RTX's builder then says whether the graphs are such as TensorRT takes.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from components.command import load_config
from components.export.builder import PlanSession, build, load_module, write_bytes
from components.export.config import ExportConfig, Precision
from components.export.engines import FILES, Engine
from components.export.metadata import engine_entry
from components.export.profiles import Profile
from components.export.step import expectations
from components.export.verdict import judge
from components.promote.signing import sign_export, signed_version
from mira.errors import DataRejected, MiraError, ServingFailed
from mira.pairs import read_index
from mira.storage import hash_file, read_json, write_json

PLAN = "model.plan"
TIMING_CACHE = "timing.cache"


def build_engine(
    network: Path, checkpoint: Path, pairs: Path, precision: Precision, config: ExportConfig, trt: ModuleType
) -> dict[str, Any]:
    """Build the engine of an exported network for this GPU, judge it like any other, and add it to the export.

    Args:
        network: an exported network, as the export step wrote it.
        checkpoint: the checkpoint that it was exported from; torch in f32 is what it is compared with.
        pairs: root of the pair store.
        precision: of the graph that is built: f32, fp16 or int8.
        config: parameters of the export step, for its tolerances.
        trt: the module `tensorrt`.

    Returns:
        The engine's entry in metadata.json.

    Raises:
        DataRejected: when the checkpoint is not the exported one.
        ServingFailed: when the export was changed since it was signed, the engine cannot be built, or it is outside
            tolerance; the message names the worst slice. The export stays as it was then.
    """
    from model.checkpoint import load_restorer

    registered = signed_version(network)
    metadata: dict[str, Any] = read_json(network / "metadata.json")
    if metadata["weights_sha256"] != hash_file(checkpoint / "model.safetensors"):
        raise DataRejected(f"{checkpoint} is not the checkpoint that {network.name} was exported from. Give that one.")
    restorer, description = load_restorer(checkpoint)
    built = build(
        trt,
        graph(network, precision),
        [Profile.model_validate(profile) for profile in metadata["profiles"]],
        int(metadata["instruction_dim"]),
        network.parent / TIMING_CACHE,
    )
    expected = expectations(restorer, description, pairs, read_index(pairs), config)
    engine = Engine("tensorrt", precision)
    verdict = judge(engine, PlanSession(trt, built.plan), expected, config.tolerances.of(precision))
    if verdict.reason:
        raise ServingFailed(f"{network.name}: {engine} {verdict.reason}. Nothing was changed; serve what was tested.")
    write_bytes(network / PLAN, built.plan)
    entry = engine_entry(verdict, network, version=built.version, seconds=round(built.seconds, 1), **gpu())
    others = [known for known in metadata["engines"] if known["engine"] != engine.name]
    write_json(network / "metadata.json", {**metadata, "engines": [*others, entry]})
    sign_export(network, registered)
    return entry


def graph(network: Path, precision: Precision) -> Path:
    """The ONNX file of a precision.

    Raises:
        ServingFailed: when the export has none.
    """
    path = network / FILES[precision]
    if precision is Precision.BF16 or not path.is_file():
        raise ServingFailed(
            f"{network} holds no graph in {precision} for TensorRT. Export it with `precisions`, or read in "
            "parity.json why it was left out."
        )
    return path


def gpu() -> dict[str, str]:
    """The GPU that an engine is bound to."""
    import torch

    major, minor = torch.cuda.get_device_capability()
    return {"gpu": torch.cuda.get_device_name(), "compute_capability": f"{major}.{minor}"}


def check_graphs(network: Path, rtx: ModuleType, targets: Sequence[str] = ()) -> dict[str, dict[str, Any]]:
    """Build every graph of an exported network with TensorRT-RTX, which needs no GPU, and keep nothing of it.

    Args:
        network: an exported network.
        rtx: the module `tensorrt_rtx`.
        targets: compute capabilities to build for; none for all that it knows.

    Returns:
        By file: bytes and seconds of the engine, layers of the network, version of TensorRT-RTX.

    Raises:
        ServingFailed: naming the file and what TensorRT-RTX said of it.
    """
    metadata = read_json(network / "metadata.json")
    profiles = [Profile.model_validate(profile) for profile in metadata["profiles"]]
    found = {}
    for path in sorted(network.glob("model*.onnx")):
        built = build(rtx, path, profiles, int(metadata["instruction_dim"]), targets=targets)
        found[path.name] = {
            "bytes": len(built.plan),
            "seconds": round(built.seconds, 1),
            "layers": built.layers,
            "version": built.version,
        }
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run; returns the exit code of the steps."""
    description = "Build, check and sign a TensorRT engine of an exported network on this node's GPU."
    parser = argparse.ArgumentParser(prog="python -m components.export.tensorrt", description=description)
    parser.add_argument("--network", type=Path, required=True, metavar="PATH", help="folder of an exported network")
    parser.add_argument("--checkpoint", type=Path, metavar="PATH", help="the checkpoint that it was exported from")
    parser.add_argument("--pairs", type=Path, metavar="PATH", help="root of the pair store, for the parity check")
    choices = [precision.value for precision in (Precision.F32, Precision.FP16, Precision.INT8)]
    parser.add_argument("--precision", choices=choices, default="fp16", help="graph to build (fp16)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML parameters; section `export` is read")
    parser.add_argument("--check", action="store_true", help="no GPU: only whether TensorRT-RTX takes the graphs")
    given = parser.parse_args(argv)
    if not given.check and (given.checkpoint is None or given.pairs is None):
        parser.error("give --checkpoint and --pairs, or --check")
    try:
        if given.check:
            result: Any = check_graphs(given.network, load_module("tensorrt_rtx"))
        else:
            config = load_config(ExportConfig, given.config, "export")
            trt = load_module("tensorrt")
            precision = Precision(given.precision)
            result = build_engine(given.network, given.checkpoint, given.pairs, precision, config, trt)
    except MiraError as error:
        print(f"export.tensorrt: {error}", file=sys.stderr)  # noqa: T201
        return error.exit_code
    print(json.dumps(result))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
