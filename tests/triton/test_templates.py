"""The tracked template, and what is made of it."""

import numpy as np
import pytest

from components.promote import config_files
from components.promote.paths import ServingPaths
from mira.errors import ServingFailed
from mira.tasks import Modality

TEMPLATES = ServingPaths().templates
INPUTS = ["image", "modality", "mr_scale", "instruction", "instruction_weight"]
OUTPUTS = ["restored", "modality_probability", "degradation", "instruction_used"]


@pytest.mark.parametrize("file", [config_files.CONFIG, config_files.CPU_CONFIG])
def test_template_follows_the_serving_contract(file):
    config = config_files.parse(TEMPLATES / file)
    assert [tensor.name for tensor in config.input] == INPUTS
    assert [tensor.name for tensor in config.output] == OUTPUTS
    assert config.max_batch_size == 8
    assert list(config.input[0].dims) == list(config.output[0].dims) == [1, -1, -1]
    assert set(config.model_warmup[0].inputs) == set(INPUTS)
    assert config.HasField("dynamic_batching")
    assert not config.response_cache.enable


def test_gpu_and_cpu_worlds_differ_where_they_must():
    gpu, cpu = (config_files.parse(TEMPLATES / file) for file in (config_files.CONFIG, config_files.CPU_CONFIG))
    assert (gpu.backend, gpu.instance_group[0].kind) == ("onnxruntime", gpu.instance_group[0].KIND_GPU)
    assert gpu.optimization.execution_accelerators.gpu_execution_accelerator[0].name == "tensorrt"
    assert "precision_mode" not in gpu.optimization.execution_accelerators.gpu_execution_accelerator[0].parameters
    assert (cpu.backend, cpu.instance_group[0].kind) == ("python", cpu.instance_group[0].KIND_CPU)
    assert cpu.input[0].allow_ragged_batch
    assert cpu.parameters["precision"].string_value == "f32"


def test_a_gpu_is_warmed_up_at_each_usual_size_as_one_slice_and_as_a_batch():
    gpu = config_files.parse(TEMPLATES / config_files.CONFIG)
    sizes = {(sample.batch_size, *sample.inputs["image"].dims[1:]) for sample in gpu.model_warmup}
    assert sizes == {(batch, side, side) for batch in (1, gpu.max_batch_size) for side in (128, 256, 512)}
    assert list(gpu.dynamic_batching.preferred_batch_size)[-1] == gpu.max_batch_size
    for sample in gpu.model_warmup:
        assert set(sample.inputs) == set(INPUTS)
        assert all(value.zero_data or value.input_data_file for value in sample.inputs.values())


def test_a_cpu_does_not_wait_for_a_batch():
    assert config_files.parse(TEMPLATES / config_files.CPU_CONFIG).dynamic_batching.max_queue_delay_microseconds == 0


def test_rendered_configuration_parses_and_carries_the_network(tmp_path):
    config_files.render(
        TEMPLATES,
        tmp_path,
        name="mira_net_pet",
        version=12,
        instruction_size=48,
        modalities=[Modality.PET],
        parameters={"threads": "3"},
        error_map=True,
    )
    for file in (config_files.CONFIG, config_files.CPU_CONFIG):
        config = config_files.parse(tmp_path / file)
        assert config.name == "mira_net_pet"
        assert [tensor.name for tensor in config.output] == [*OUTPUTS, "predicted_error"]
        assert list(config.output[-1].dims) == [1, -1, -1]
        assert list(config.version_policy.specific.versions) == [12]
        sized = [t for t in [*config.input, *config.output] if t.name in ("instruction", "instruction_used")]
        assert [list(t.dims) for t in sized] == [[48], [48]]
        assert all(list(sample.inputs["instruction"].dims) == [48] for sample in config.model_warmup)
        for value in (value for sample in config.model_warmup for value in sample.inputs.values()):
            if value.input_data_file:
                data = (tmp_path / "warmup" / value.input_data_file).read_bytes()
                assert len(data) == int(np.prod(value.dims)) * (8 if value.input_data_file == "modality" else 4)
    cpu = config_files.parse(tmp_path / config_files.CPU_CONFIG)
    assert cpu.parameters["threads"].string_value == "3"
    assert cpu.parameters["modalities"].string_value == "PET"
    assert np.frombuffer((tmp_path / "warmup/modality").read_bytes(), np.int64)[0] == Modality.PET.number
    gpu = config_files.parse(tmp_path / config_files.CONFIG)
    profiles = gpu.optimization.execution_accelerators.gpu_execution_accelerator[0].parameters
    assert "instruction:1x48" in profiles["trt_profile_min_shapes"]
    assert "instruction:8x48" in profiles["trt_profile_max_shapes"]
    assert "instruction_weight:8x1" in profiles["trt_profile_max_shapes"]


def test_broken_configuration_names_the_place(tmp_path):
    broken = tmp_path / "config.pbtxt"
    broken.write_text('name: "x"\ninput [ { name: "image" ]\n')
    with pytest.raises(ServingFailed, match="2:"):
        config_files.parse(broken)
