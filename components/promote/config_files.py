"""config.pbtxt and configs/cpu.pbtxt of a served model: made from the tracked template, always as protobuf.

Editing the parsed message instead of the text means that what is written always parses again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from components.export.profiles import Profile
from mira.client.batches import ERROR_MAP
from mira.errors import ServingFailed
from mira.tasks import Modality

CONFIG = Path("config.pbtxt")
CPU_CONFIG = Path("configs/cpu.pbtxt")


def parse(path: Path) -> Any:
    """A configuration file as a ModelConfig message.

    Raises:
        ServingFailed: naming the line, when it does not parse.
    """
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    try:
        return text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    except (OSError, text_format.ParseError) as error:
        raise ServingFailed(f"{path} is not a Triton configuration: {error}") from error


def engine_of(config: Any) -> str:
    """What runs a model: engine and precision on a CPU, e.g. `openvino int8`; backend and file on a GPU."""
    if config.backend != "python":
        return f"{config.backend} {config.default_model_filename}"
    return " ".join(config.parameters[key].string_value for key in ("engine", "precision"))


def render(
    templates: Path,
    target: Path,
    *,
    name: str,
    version: int,
    instruction_size: int,
    modalities: list[Modality],
    parameters: dict[str, str],
    everywhere: dict[str, str] | None = None,
    error_map: bool = False,
    gpu_file: str = "model.onnx",
    profiles: Sequence[Profile] = (),
) -> None:
    """Write both configurations and the warm-up data of a model.

    Args:
        templates: folder of the tracked template.
        target: folder of the model.
        name: name of the model, that of its folder.
        version: the one version that it serves.
        instruction_size: length of the instruction vector.
        modalities: what the network was trained on.
        parameters: parameters of the python backend that differ from the template's.
        everywhere: parameters of either world.
        error_map: whether the network has the output `predicted_error`, which the template lacks.
        gpu_file: what a GPU serves: an ONNX file, or TensorRT's `model.plan`.
        profiles: sizes that TensorRT is tuned for; those of the template where none are given.
    """
    from google.protobuf import text_format

    for relative in (CONFIG, CPU_CONFIG):
        config = parse(templates / relative)
        _set(config, name, version, instruction_size)
        if error_map:
            restored = next(output for output in config.output if output.name == "restored")
            config.output.add().CopyFrom(restored)
            config.output[-1].name = ERROR_MAP
        if config.backend != "python":
            _choose_gpu_file(config, gpu_file, profiles, instruction_size)
        else:
            for key, value in {**parameters, "modalities": ",".join(modalities)}.items():
                config.parameters[key].string_value = value
        for key, value in (everywhere or {}).items():
            config.parameters[key].string_value = value
        path = target / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_format.MessageToString(config), encoding="utf-8")
        _write_warmup(target / "warmup", config, modalities[0])


def rename(path: Path, name: str) -> None:
    """Give a written configuration another model name."""
    from google.protobuf import text_format

    config = parse(path)
    config.name = name
    path.write_text(text_format.MessageToString(config), encoding="utf-8")


def _write_warmup(folder: Path, config: Any, modality: Modality) -> None:
    """The files that a warm-up request names: a ramp of plausible values (Triton's random data are random bits)."""
    folder.mkdir(exist_ok=True)
    (folder / "modality").write_bytes(np.int64(modality.number).tobytes())
    (folder / "mr_scale").write_bytes(np.float32(1000).tobytes())
    for sample in config.model_warmup:
        image = sample.inputs["image"]
        ramp = np.linspace(0, 10, int(np.prod(image.dims)), dtype=np.float32)
        (folder / image.input_data_file).write_bytes(ramp.tobytes())


def _set(config: Any, name: str, version: int, instruction_size: int) -> None:
    config.name = name
    config.version_policy.specific.versions[:] = [version]
    tensors = [*config.input, *config.output]
    tensors += [warmup.inputs[key] for warmup in config.model_warmup for key in ("instruction",)]
    for tensor in tensors:
        if getattr(tensor, "name", "instruction") in ("instruction", "instruction_used"):
            tensor.dims[:] = [instruction_size]
    for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator:
        for key in ("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes"):
            accelerator.parameters[key] = _profile(accelerator.parameters[key], instruction_size)
        for key in ("trt_engine_cache_path", "trt_timing_cache_path"):
            accelerator.parameters[key] = f"{accelerator.parameters[key]}/{name}/{version}"


def _choose_gpu_file(config: Any, file: str, profiles: Sequence[Profile], instruction_size: int) -> None:
    """Serve a file on the GPU: a graph by ONNX Runtime with TensorRT, or an engine that TensorRT has built."""
    config.default_model_filename = file
    if file.endswith(".plan"):
        config.backend, config.platform = "tensorrt", "tensorrt_plan"
        config.ClearField("optimization")
        config.instance_group[0].profile[:] = [str(number) for number in range(len(profiles))]
        return
    for profile in profiles[-1:]:  # the widest, tuned at the sites' size: ONNX Runtime does not choose among several
        for accelerator in config.optimization.execution_accelerators.gpu_execution_accelerator:
            for place, key in enumerate(("trt_profile_min_shapes", "trt_profile_opt_shapes", "trt_profile_max_shapes")):
                shapes = profile.shapes(instruction_size).items()
                text = (f"{tensor}:{'x'.join(map(str, sizes[place]))}" for tensor, sizes in shapes)
                accelerator.parameters[key] = ",".join(text)


def _profile(shapes: str, instruction_size: int) -> str:
    """A TensorRT profile with the instruction's length set: `image:1x1x32x32,instruction:1x16,...`."""
    parts = [part.split(":") for part in shapes.split(",")]
    sized = [
        (tensor, f"{shape.split('x')[0]}x{instruction_size}" if tensor == "instruction" else shape)
        for tensor, shape in parts
    ]
    return ",".join(f"{tensor}:{shape}" for tensor, shape in sized)
