import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from components.evaluate.aggregate import with_error, within_cases
from components.evaluate.measure import blank_slices, choose_slices, load_slices, measure
from components.evaluate.reliability import ErrorCounts
from components.evaluate.results import read_evaluation
from components.evaluate.step import EvaluateConfig, evaluate
from components.kubeflow_outputs import describe_evaluation
from mira.client import Restorer
from mira.client.weights import weights_engine
from mira.dicom.units import mr_scale
from mira.errors import ConfigurationError, DataRejected
from mira.pairs import write_index
from mira.quality.metrics import measure_slices
from mira.storage import hash_file, read_json, write_json
from mira.tasks import Modality, Task
from mira.volume import read_nifti
from model.checkpoint import load_restorer
from tests.components.made_up import make_network, make_pairs

CONFIG = EvaluateConfig(max_slices_per_case=3, bootstrap_draws=200, threads=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The unified network is the identity; the single-task networks and the champion spoil the input."""
    root = tmp_path_factory.mktemp("evaluate")
    index = make_pairs(root / "pairs")
    networks = [make_network(root / "unified", "unified", run_id="run-1", error_map=True)]
    networks += [make_network(root / task.value, task.value, seed=2, strength=0.3) for task in Task]
    champion = make_network(root / "champion", "unified", seed=3, strength=0.3)
    summary = evaluate(root / "pairs", networks, champion, root / "out", CONFIG)
    return index, read_evaluation(root / "out"), summary, root


def rows_of(evaluation, **match):
    return [row for row in evaluation.rows if all(getattr(row, k) == v for k, v in match.items())]


def test_every_network_stands_beside_the_input_in_every_stratum(run):
    _, evaluation, _, _ = run
    for task in Task:
        strata = {(r.split, r.site, r.level) for r in rows_of(evaluation, task=task)}
        assert len(strata) == 4
        for split, site, level in strata:
            own = rows_of(evaluation, task=task, split=split, site=site, level=level, profile="robust")
            assert [r.network for r in own] == sorted(["input", "unified", task.value, "champion"])
            assert {(r.patients, r.slices) for r in own} == {(2, 6)}


def test_an_identity_gains_nothing_and_a_spoiling_network_loses(run):
    _, evaluation, summary, _ = run
    for row in evaluation.rows:
        if row.network == "unified":
            assert row.gain_db == pytest.approx(0, abs=1e-4)
        elif row.network != "input":
            assert row.gain_db < -0.1
    assert summary.gains_db["ct-denoising test"] == pytest.approx(0, abs=1e-4)


def test_slices_are_restored_as_a_client_restores_their_series(run):
    """All of a volume share one instruction and a scale that is estimated, also where only some slices are measured."""
    index, _, _, root = run
    network, _ = load_restorer(root / "champion")
    with Restorer(weights_engine(str(root / "champion")), in_flight=1) as client:
        for pair in index.select("local")[::2]:
            slices = load_slices(root / "pairs", pair, 2, 0)
            restored = measure(slices, {"unified": network}, ["robust"], "unified", 4).restored["unified"]
            volume = read_nifti(root / "pairs" / pair.degraded).voxels
            served = client.restore_slices(volume, pair.modality)
            assert len(slices.index) == 2 < len(volume)
            assert np.abs(served.voxels - volume).max() > 0.1
            np.testing.assert_allclose(restored, served.voxels[slices.index], rtol=1e-4, atol=1e-3)


def test_a_network_that_sees_neighbours_is_measured_amid_those_of_the_volume(run, tmp_path):
    index, _, _, root = run
    folder = make_network(tmp_path / "three", "unified", seed=3, strength=0.3, error_map=True, slices=3)
    network, _ = load_restorer(folder)
    with Restorer(weights_engine(str(folder)), in_flight=1) as client:
        for pair in index.select("local")[::2]:
            slices = load_slices(root / "pairs", pair, 2, 0)
            item = measure(slices, {"unified": network}, ["robust"], "unified", 4)
            volume = read_nifti(root / "pairs" / pair.degraded).voxels
            served = client.restore_slices(volume, pair.modality, mr_scale=slices.scale, want_error=True)
            assert np.abs(served.voxels - volume).max() > 0.1
            np.testing.assert_allclose(item.restored["unified"], served.voxels[slices.index], rtol=1e-4, atol=1e-3)
            np.testing.assert_allclose(item.predicted_error, served.predicted_error[slices.index], rtol=1e-4)
            lonely = client.restore_slices(volume[slices.index], pair.modality, mr_scale=slices.scale)
            assert np.abs(lonely.voxels - served.voxels[slices.index]).max() > 0.01  # other neighbours


def test_slices_that_are_no_neighbours_prove_nothing_of_a_network_that_sees_several(run, tmp_path):
    index = run[0]
    parameters = {"slice_stride": 2}
    apart = [
        pair.model_copy(update={"physics": pair.physics.model_copy(update={"parameters": parameters})})
        for pair in index.pairs
    ]
    write_index(tmp_path / "pairs", index.model_copy(update={"pairs": apart}))
    folder = make_network(tmp_path / "three", "unified", slices=3)
    with pytest.raises(ConfigurationError, match=r"needs pairs of neighbouring slices, .* \(stride 2\)"):
        evaluate(tmp_path / "pairs", [folder], None, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_an_mr_network_is_given_the_scale_of_what_it_restores_and_the_metric_that_of_the_reference(run):
    """A client has no reference to take the scale from."""
    index, _, _, root = run
    network, _ = load_restorer(root / "champion")
    pair = index.select("test", task=Task.MRI_SUPER_RESOLUTION)[1]
    slices = load_slices(root / "pairs", pair, 2, 0)
    assert slices.scale == mr_scale(read_nifti(root / "pairs" / pair.degraded).voxels) != pair.mr_scale
    measured = measure(slices, {"unified": network}, ["robust"], "unified", 4)
    expected = measure_slices(
        slices.reference, measured.restored["unified"], pair.modality, "robust", mr_scale=pair.mr_scale
    )
    np.testing.assert_allclose(measured.slices["unified", "robust"].psnr, expected.psnr)
    ct = index.select("test", task=Task.CT_DENOISING)[0]
    assert load_slices(root / "pairs", ct, 2, 0).scale == 1.0


def test_figures_are_those_of_the_quality_package_on_the_stored_volumes(run):
    index, evaluation, _, root = run
    level = 0.1
    expected = []
    for pair in index.select("local", task=Task.CT_DENOISING):
        if pair.physics.level == level:
            reference = read_nifti(root / "pairs" / pair.reference).voxels
            degraded = read_nifti(root / "pairs" / pair.degraded).voxels
            kept = choose_slices(np.zeros(5, bool), read_nifti(root / "pairs" / pair.structures).voxels, 3, 2)
            expected.append(measure_slices(reference[kept], degraded[kept], pair.modality, "robust"))
    row = rows_of(evaluation, network="input", split="local", task=Task.CT_DENOISING, level=level, profile="robust")[0]
    assert row.psnr == pytest.approx(np.mean([m.psnr for m in expected]))
    assert row.ssim == pytest.approx(np.mean([m.ssim for m in expected]))
    assert row.rmse == pytest.approx(np.mean([m.rmse for m in expected]))


def test_comparisons_are_paired_by_patient_on_both_sets(run):
    _, evaluation, _, _ = run
    assert {(c.task, c.split, c.other) for c in evaluation.comparisons} == {
        (task, split, other) for task in Task for split in ("test", "local") for other in (task.value, "champion")
    }
    for comparison in evaluation.comparisons:
        assert comparison.patients == 2
        assert comparison.upper_db >= comparison.difference_db >= comparison.lower_db > 0


def test_clinical_figures_and_indicators(run):
    _, evaluation, _, _ = run
    for task, name in (
        (Task.CT_DENOISING, "hu_mean_bias"),
        (Task.PET_SYNTHESIS, "suv_max_bias"),
        (Task.PET_SYNTHESIS, "suv_lesion_bias"),
        (Task.MRI_SUPER_RESOLUTION, "mr_mean_bias"),
    ):
        assert all(name in row.clinical and "lesion_recovery" in row.clinical for row in rows_of(evaluation, task=task))
    assert abs(rows_of(evaluation, task=Task.CT_DENOISING, network="unified")[0].clinical["hu_mean_bias"]) < 5
    assert len(evaluation.indicators) == 6
    assert all(0 <= i.modality_accuracy <= 1 and i.slices == 12 for i in evaluation.indicators)
    assert all(-1 <= i.severity_correlation_within <= 1 for i in evaluation.indicators)
    assert all(-1 <= i.error_correlation <= 1 for i in evaluation.indicators)


def test_the_order_of_levels_counts_within_a_case():
    def measured(case: str, severity: float, estimate: float) -> SimpleNamespace:
        pair = SimpleNamespace(case_id=case, physics=SimpleNamespace(severity=severity))
        return SimpleNamespace(pair=pair, degradation=np.array([estimate - 0.1, estimate + 0.1]))

    noisy = [measured("a", 0.2, 0.6), measured("a", 0.5, 0.8)]  # in order, on another scale than the other case
    clear = [measured("b", 0.5, 0.1), measured("b", 0.8, 0.4)]
    assert within_cases(noisy + clear) == pytest.approx(1)
    assert within_cases([*noisy, measured("b", 0.5, 0.4), measured("b", 0.8, 0.1)]) == pytest.approx(0)
    assert within_cases([noisy[0], clear[0]]) is None
    unguided = [measured("c", 0.2, 0.0), measured("c", 0.5, 0.0)]  # a network without guidance estimates a constant
    assert within_cases(unguided) is None
    assert within_cases(noisy + unguided) == pytest.approx(1)


def test_estimates_are_ranked_against_what_the_input_lost():
    def measured(error: float | None, estimate: float) -> SimpleNamespace:
        return SimpleNamespace(input_error=error, degradation=np.array([estimate - 0.1, estimate + 0.1]))

    items = [measured(10, 0.2), measured(30, 0.4), measured(20, 0.6)]
    assert with_error(items) == pytest.approx(0.5)
    assert with_error([*items, measured(None, 0.9)]) == pytest.approx(0.5)  # nothing but air: no error to rank
    assert with_error(items[:1]) is None
    assert with_error([measured(10, 0.3), measured(20, 0.3)]) is None


def test_lineage_of_the_networks_is_kept(run):
    _, evaluation, _, root = run
    assert evaluation.networks["unified"].weights_sha256 == hash_file(root / "unified" / "model.safetensors")
    assert evaluation.networks["unified"].run_id == "run-1"
    assert evaluation.networks["champion"].weights_sha256 == hash_file(root / "champion" / "model.safetensors")
    assert evaluation.data_version == "0123456789abcdef"


def test_tables_and_plots_for_dvc_and_kubeflow(run):
    _, evaluation, _, root = run
    plot = pd.read_csv(root / "out" / "plots" / "psnr.csv")
    assert list(plot.columns) == ["task", "split", "network", "level", "psnr"]
    assert len(plot) == 3 * 2 * 4 * 2
    cases = pd.read_parquet(root / "out" / "cases.parquet")
    assert len(cases) == 12 * 2 * 4 * 2  # cases x levels x networks x profiles
    figures = describe_evaluation(root / "out")
    assert figures["ct-denoising.local.patients"] == 2
    assert {"input_psnr", "unified_psnr", "single_psnr", "gain_db"} <= set(evaluation.summary["ct-denoising"]["test"])


def test_one_picture_per_task_and_split_and_a_page_that_needs_no_network(run):
    _, evaluation, _, root = run
    assert [(p.task, p.split) for p in evaluation.pictures] == [(t, s) for t in Task for s in ("test", "local")]
    for picture in evaluation.pictures:
        data = (root / "out" / "pictures" / picture.file).read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert "robust" in picture.caption
        assert "dB" in picture.caption
    page = (root / "out" / "report.html").read_text()
    assert page.count("data:image/png;base64") == 7  # and the plot of the expected error
    assert not re.search(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|<script|<link""", page)


def test_equal_inputs_give_equal_metrics(run, tmp_path):
    _, _, _, root = run
    networks = [root / name for name in ("unified", *Task)]
    evaluate(root / "pairs", networks, root / "champion", tmp_path / "out", CONFIG)
    assert read_json(tmp_path / "out" / "metrics.json") == read_json(root / "out" / "metrics.json")


def test_a_single_modality_without_champion(tmp_path):
    make_pairs(tmp_path / "pairs", patients=1, tasks=(Task.PET_SYNTHESIS,))
    networks = [
        make_network(tmp_path / "unified", "unified", tasks=(Task.PET_SYNTHESIS,)),
        make_network(tmp_path / "pet", "pet-synthesis"),
    ]
    summary = evaluate(tmp_path / "pairs", networks, None, tmp_path / "out", CONFIG)
    assert set(summary.gains_db) == {"pet-synthesis test", "pet-synthesis local"}
    assert "champion" not in read_evaluation(tmp_path / "out").networks


def test_what_cannot_be_evaluated_is_refused(tmp_path):
    make_pairs(tmp_path / "pairs", patients=1, sites=(("alpha", "train"),), tasks=(Task.PET_SYNTHESIS,))
    unified = make_network(tmp_path / "unified", "unified")
    single = make_network(tmp_path / "ct", "ct-denoising")
    with pytest.raises(DataRejected, match="no pair of the splits test or local"):
        evaluate(tmp_path / "pairs", [unified], None, tmp_path / "out", CONFIG)
    with pytest.raises(DataRejected, match="None of the networks is the unified one, only ct-denoising"):
        evaluate(tmp_path / "pairs", [single], None, tmp_path / "out", CONFIG)
    with pytest.raises(DataRejected, match="Two of the networks are named unified"):
        evaluate(tmp_path / "pairs", [unified, unified], None, tmp_path / "out", CONFIG)
    with pytest.raises(DataRejected, match="is not a checkpoint"):
        evaluate(tmp_path / "pairs", [tmp_path], None, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()


def test_patients_that_a_network_was_trained_on_prove_nothing_about_it(run, tmp_path):
    """A split that was drawn anew makes test patients of train patients; the new pairs cannot show it."""
    _, evaluation, _, root = run
    assert evaluation.networks["champion"].patients_unknown == ["champion"]  # trained before there was such a list

    def has_seen(folder, patients, unknown=()):
        training = read_json(folder / "training.json")
        write_json(folder / "training.json", training | {"seen": {"patients": patients, "unknown": list(unknown)}})
        return folder

    unified = has_seen(make_network(tmp_path / "unified", "unified"), ["someone", "else"], ["made_up_tiny 2"])
    for folder in ("champion", "unified"):
        leaking = make_network(tmp_path / "leaking" / folder, "unified", seed=4)
        has_seen(leaking, ["patient-alpha-0", "patient-gamma-0", "patient-gamma-1"])
        networks, champion = ([unified], leaking) if folder == "champion" else ([leaking], None)
        with pytest.raises(DataRejected, match=f"1 of 2 test .* and 2 of 2 local .* {folder} network: .*previous"):
            evaluate(root / "pairs", networks, champion, tmp_path / "out", CONFIG)
    assert not (tmp_path / "out").exists()

    make_pairs(tmp_path / "pairs", 1, tasks=(Task.PET_SYNTHESIS,))
    champion = has_seen(make_network(tmp_path / "champion", "unified", seed=5), ["patient-alpha-7"])
    evaluate(tmp_path / "pairs", [unified], champion, tmp_path / "out", CONFIG)
    networks = read_evaluation(tmp_path / "out").networks
    assert networks["unified"].patients_unknown == ["made_up_tiny 2"]  # what it started from
    assert networks["champion"].patients_unknown == []


def test_an_unknown_profile_is_a_configuration_error():
    from components.command import configure

    with pytest.raises(ConfigurationError, match="Unknown metric profile 'psnr'"):
        configure(EvaluateConfig, {"profiles": ["psnr"]}, "evaluate")


def test_a_slice_of_debris_is_blank_and_one_of_low_uptake_is_not():
    volume = np.zeros((3, 8, 8), np.float32)
    volume[0, 2:6, 2:6] = 900
    volume[1, 3, 3] = 20
    assert blank_slices(volume, Modality.MR).tolist() == [False, True, True]
    assert blank_slices(volume / 0.9 - 1000, Modality.CT).tolist() == [False, True, True]
    assert blank_slices(volume / 100, Modality.PET).tolist() == [False, False, True]


def test_slices_are_even_with_structures_first_and_blank_ones_left_out():
    blank = np.zeros(20, bool)
    blank[:10] = True
    labels = np.zeros((20, 4, 4), np.int32)
    labels[13, :2] = 1
    chosen = choose_slices(blank, labels, 4, 2)
    assert 13 in chosen
    assert len(chosen) == 4
    assert chosen.min() >= 10
    assert list(choose_slices(blank, None, 0, 2)) == list(range(10, 20))
    assert len(choose_slices(np.ones(5, bool), None, 4, 2)) == 0


def test_the_expected_error_is_compared_with_the_error_that_was_made(run):
    index, evaluation, _, root = run
    found = {(row.task, row.split) for row in evaluation.reliability}
    assert found == {(task, split) for task in Task for split in ("test", "local")}
    ct = next(row for row in evaluation.reliability if (row.task, row.split) == (Task.CT_DENOISING, "test"))
    # an untrained head predicts one loss unit, 20 HU, for each pixel; the network is the identity
    assert {round(item.predicted, 3) for item in ct.bins} == {round(20 * 2**0.5, 3)}
    errors = []
    for pair in index.select("test", task=Task.CT_DENOISING):
        reference, degraded = (read_nifti(root / "pairs" / name).voxels for name in (pair.reference, pair.degraded))
        structures = read_nifti(root / "pairs" / pair.structures).voxels
        chosen = choose_slices(np.zeros(len(reference), bool), structures, 3, 2)
        errors.append((degraded - reference)[chosen][reference[chosen] > -500])
    error = np.abs(np.concatenate(errors)) / (20 * 2**0.5)
    assert ct.pixels == error.size
    assert ct.within_one == pytest.approx((error <= 1).mean(), abs=1e-4)
    assert ct.within_two == pytest.approx((error <= 2).mean(), abs=1e-4)
    assert ct.mean_square == pytest.approx(np.square(error).mean(), rel=1e-4)
    page = (root / "out" / "report.html").read_text()
    assert "within 2 SD" in page
    assert (root / "out" / "pictures" / "reliability.png").stat().st_size > 5000


def test_counts_find_a_calibrated_prediction_calibrated_and_a_bold_one_bold():
    rng = np.random.default_rng(0)
    sigma = np.exp(rng.uniform(0, 3, (40, 100, 100)))
    error = (sigma * rng.standard_normal(sigma.shape)).astype(np.float32)
    inside = np.ones(sigma.shape, bool)
    right, bold = ErrorCounts(), ErrorCounts()
    right.add(error, sigma.astype(np.float32), inside)
    bold.add(error, (sigma / 2).astype(np.float32), inside)
    found = right.summary(Task.CT_DENOISING, "test")
    assert (found.within_one, found.within_two) == (pytest.approx(0.683, abs=0.01), pytest.approx(0.954, abs=0.005))
    assert found.mean_square == pytest.approx(1, abs=0.02)
    assert found.ence < 0.02
    assert found.correlation == pytest.approx(1)
    assert len(found.bins) == 10
    assert max(item.pixels for item in found.bins) < 1.4 * min(item.pixels for item in found.bins)
    assert bold.summary(Task.CT_DENOISING, "test").ence == pytest.approx(1, abs=0.05)
    assert bold.summary(Task.CT_DENOISING, "test").mean_square == pytest.approx(4, abs=0.1)
