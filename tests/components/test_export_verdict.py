from dataclasses import replace

import numpy as np
import pytest

from components.export import table
from components.export.config import DEFAULTS, Precision, Tolerance
from components.export.engines import Engine
from components.export.parity import Expected, Probe, compare, held_out
from components.export.verdict import Cost, _reason, cost, judge
from mira.errors import DataRejected
from mira.pairs import read_index
from mira.storage import write_json
from mira.tasks import Modality, Task
from tests.components.made_up import make_pairs

ENGINE = Engine("openvino", Precision.BF16)
WIDE = Tolerance(**dict.fromkeys(DEFAULTS[Precision.BF16], 1000000.0))


@pytest.fixture(scope="module")
def probes(tmp_path_factory):
    root = tmp_path_factory.mktemp("verdict") / "pairs"
    make_pairs(root, patients=1)
    index = read_index(root)
    return {task: held_out(root, index, task, 1)[0] for task in Task}


def expected(probe: Probe) -> Expected:
    """Torch's answer: the reference with a little noise."""
    noise = np.random.default_rng(0).normal(0, 0.02, probe.images.shape) * probe.slices.reference.std()
    count = len(probe.images)
    outputs = {
        "restored": (probe.slices.reference + noise).astype(np.float32)[:, None],
        "modality_probability": np.full((count, 3), 1 / 3, np.float32),
    }
    return Expected(probe, (), outputs)


class Changed:
    """Answers as torch does, with the image changed."""

    def __init__(self, one, change):
        self._one, self._change = one, change

    def run(self, inputs):
        return {**self._one.outputs, "restored": self._change(self._one.outputs["restored"]).astype(np.float32)}


def reason(one, change, **bounds):
    return judge(ENGINE, Changed(one, change), [one], WIDE.model_copy(update=bounds)).reason


def one_pixel(image):
    changed = image.copy()
    changed[0, 0, 5, 7] += 3
    return changed


def test_differences_are_in_native_units_and_name_the_slice(probes):
    one = expected(probes[Task.CT_DENOISING])
    found = compare(one, Changed(one, one_pixel).run(()))
    assert found.image == pytest.approx(3, abs=1e-3)
    assert found.rms == pytest.approx(3 / np.sqrt(one.probe.images[0].size), rel=1e-3)
    assert found.indicators == 0
    assert found.probe.endswith(f"slice {one.probe.slices.index[0]}")
    mr = expected(probes[Task.MRI_SUPER_RESOLUTION])
    assert compare(mr, Changed(mr, one_pixel).run(())).image == pytest.approx(3 / mr.probe.mr_scale, rel=1e-3)


@pytest.mark.parametrize(
    ("task", "change", "bounds", "words"),
    [
        (Task.CT_DENOISING, one_pixel, {"hu": 2.0}, "3 HU on"),
        (Task.CT_DENOISING, lambda image: image + 0.5, {"rms_hu": 0.4}, "HU (root mean square)"),
        (Task.CT_DENOISING, lambda image: image + 0.5, {"bias_hu": 0.4}, "0.5 HU in hu_mean_bias"),
        (Task.PET_SYNTHESIS, lambda image: image * 1.02, {"bias_percent": 1.0}, "% in suv_m"),
        (Task.MRI_SUPER_RESOLUTION, lambda image: image * 0.98, {"bias_percent": 1.0}, "% in mr_mean_bias"),
        (Task.CT_DENOISING, lambda image: image + 40 * np.sin(np.arange(48)), {"psnr_db": 0.1}, "dB of PSNR lost"),
        (Task.PET_SYNTHESIS, lambda image: image * np.nan, {}, "inf SUVbw"),
    ],
)
def test_each_bound_is_kept_by_itself(probes, task, change, bounds, words):
    one = expected(probes[task])
    assert reason(one, lambda image: image, **bounds) == ""
    assert words in reason(one, change, **bounds)
    if bounds:
        assert reason(one, change) == ""


def test_an_engine_that_is_nearer_to_the_reference_loses_nothing(probes):
    one = expected(probes[Task.CT_DENOISING])
    better = cost(one, one.probe.slices.reference[:, None] + np.float32(0.1))
    assert better.psnr_db < 0


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_figure_that_is_no_number_fails_wherever_it_stands(probes, place):
    one = expected(probes[Task.CT_DENOISING])
    same = compare(one, one.outputs)
    values = [0.1, 0.1, 0.1]
    values[place] = np.nan
    costs = [Cost(f"pair {number}", 0.0, {"hu_mean_bias": value}) for number, value in enumerate(values)]
    assert f"nan HU in hu_mean_bias on pair {place}" in _reason([same], costs, WIDE)
    assert _reason([same], [Cost("pair", np.nan, {})], WIDE).startswith("differs from torch by up to nan dB")


def test_what_is_refused_for_values_that_are_no_numbers_can_be_written(probes, tmp_path):
    one = expected(probes[Task.PET_SYNTHESIS])
    verdict = judge(ENGINE, Changed(one, lambda image: image * np.nan), [one], WIDE)
    assert verdict.reason
    write_json(tmp_path / "parity.json", verdict.figures())


def test_a_pair_without_a_psnr_does_not_pass(probes):
    one = expected(probes[Task.CT_DENOISING])
    exact = replace(one, outputs={**one.outputs, "restored": one.probe.slices.reference[:, None]})
    assert "no PSNR is defined there" in reason(exact, lambda image: image + 0.01)


def test_an_engine_that_equals_the_reference_where_torch_does_not_passes(probes):
    one = expected(probes[Task.CT_DENOISING])
    assert reason(one, lambda _: one.probe.slices.reference[:, None]) == ""


def test_indicators_count(probes):
    one = expected(probes[Task.CT_DENOISING])
    other = replace(one, outputs={**one.outputs, "modality_probability": one.outputs["modality_probability"] + 0.2})
    verdict = judge(ENGINE, Changed(other, lambda image: image), [one], WIDE.model_copy(update={"indicators": 0.1}))
    assert "0.2 in the indicators" in verdict.reason
    assert verdict.shares_of_range()[Modality.CT] == pytest.approx(1e6 / 4095)


def test_the_table_shows_what_passed_and_what_did_not(tmp_path, capsys):
    units = {"HU": {"largest": 7.15, "rms": 0.73, "tolerance": 20}}
    passed = {"engine": "openvino", "precision": "int8", "reason": "", "by_unit": units, "psnr_loss_db": 0.09}
    refused = {"engine": "openvino", "precision": "bf16", "reason": "no bf16 here"}
    write_json(tmp_path / "parity.json", {"models": {"mira_net": {"engines": [passed, refused]}}})
    (tmp_path / "mira_net").mkdir()
    (tmp_path / "mira_net" / "model.int8.onnx").write_bytes(b"x" * 1_230_000)
    entry = {"engine": "openvino", "precision": "int8", "file": "model.int8.onnx"}
    write_json(tmp_path / "mira_net" / "metadata.json", {"engines": [entry]})
    assert table.main(["--exported", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2].startswith("| mira_net | openvino | int8 | 7.2, 0.73 |")
    assert lines[2].endswith("| 1.23 | may be served |")
    assert lines[3].endswith("| no bf16 here |")
    (tmp_path / "mira_net" / "model.int8.onnx").unlink()
    assert table.main(["--exported", str(tmp_path)]) == DataRejected.exit_code
    (tmp_path / "mira_net" / "metadata.json").unlink()
    assert table.main(["--exported", str(tmp_path)]) == DataRejected.exit_code
    assert "metadata.json is missing" in capsys.readouterr().err
    with pytest.raises(DataRejected, match=r"no parity\.json with engines"):
        table.table(tmp_path / "mira_net")
