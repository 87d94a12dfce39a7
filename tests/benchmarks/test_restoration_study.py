"""The restoration study: differences and tables from made-up figures, and one training of each kind end to end."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from benchmarks.study import findings, measuring, plots, training
from benchmarks.study.declarations import declaration_table, declarations
from benchmarks.study.measuring import (
    CLASSICAL,
    SHUFFLED,
    Blank,
    Cost,
    Setting,
    classical,
    classical_settings,
    cost_of,
    count_blank,
    instruction_bank,
    load_network,
    measure_all,
)
from benchmarks.study.samples import chosen, draw_samples, window
from benchmarks.study.training import Budget, Training, train_all
from components.evaluate import measure
from components.evaluate.aggregate import slice_table
from mira.pairs import read_index
from mira.tasks import Modality, Task
from mira.volume import Volume, read_nifti, write_nifti
from model.config import size_config
from model.network import MiraNet
from model.restorer import Restorer
from tests.components.made_up import make_pairs

NETWORKS = {"input": 0.0, "tiny:unified": 2.0, "tiny-unguided:unified": 1.5, "tiny-label:unified": 1.9, SHUFFLED: -1.0}


def slices(profile="amir"):
    """Figures of four patients; each network's PSNR is the input's plus a constant, a little different by patient."""
    rows = []
    for task in Task:
        gains = NETWORKS | {f"tiny:{task}": 2.1, f"restormer:{task}": 1.0, CLASSICAL: 0.4}
        for number, patient in enumerate("abcd"):
            for level in (0.1, 0.25):
                for network, gain in gains.items():
                    psnr = 30 + number + gain * (1 + 0.01 * number)
                    split = "local" if number > 1 else "test"
                    where = (network, task.value, split, f"site-{number}", "V", patient, f"c{number}", level, profile)
                    rows.append((*where, 0, psnr, 0.9, 10.0, gain))
    names = ["network", "task", "split", "site", "vendor", "patient", "case_id", "level", "profile", "slice"]
    return pd.DataFrame(rows, columns=[*names, "psnr", "ssim", "rmse", "gain_db"])


COSTS = {f"{name}:{task}": Cost(1000, m, 0.1) for task in Task for name, m in (("tiny", 10.0), ("restormer", 100.0))}


def test_differences_are_paired_by_patient():
    found = findings.differences(slices(), "tiny", "amir", "made up")
    same = next(d for d in found if d.second == "tiny:ct-denoising" and d.first == "tiny:unified" and d.split == "both")
    assert same.patients == 4
    assert same.mean == pytest.approx(-0.1 * 1.015)
    assert same.lower < same.mean < same.upper
    # the patients differ by 3 dB among each other, the networks by 0.1: only pairing shows it
    assert same.upper < 0
    local = next(d for d in found if d.second == SHUFFLED and d.split == "local")
    assert local.patients == 2


def test_keys_and_tables():
    table = slices()
    found = findings.differences(table, "tiny", "amir", "made up")
    keys = findings.keys_of(found, COSTS, "tiny")
    assert keys["pet-synthesis"]["multiplications_ratio"] == pytest.approx(0.1)
    assert keys["pet-synthesis"]["minus_restormer_db"] == pytest.approx(1.1 * 1.015)
    again = slices()  # a better Restormer, trained at a rate of its own
    again = again[again.network.str.startswith("restormer")].assign(psnr=lambda rows: rows.psnr + 0.6)
    again["network"] = again.network.str.replace("restormer", "restormer@0.002")
    costs = COSTS | {name.replace("restormer", "restormer@0.002"): cost for name, cost in COSTS.items()}
    both = findings.differences(pd.concat([table, again]), "tiny", "amir", "made up")
    best = findings.keys_of(both, costs, "tiny")["pet-synthesis"]["minus_restormer_db"]
    assert best == pytest.approx(1.1 * 1.015 - 0.6)
    assert keys["pet-synthesis"]["gain_db"] == pytest.approx(2.03)
    assert keys["pet-synthesis"]["patients"] == 4
    text = findings.network_table(table, COSTS, "amir", "ct-denoising")
    assert text.splitlines()[2].startswith("| input |")  # the degraded input's row comes first
    assert "restormer" in text
    differences = findings.difference_table(found, [("tiny:unified", "tiny:TASK")])
    assert differences.count("n=4") == 3
    assert findings.strata_table(table, "tiny", "amir").count("\n") == 1 + 3 * 4 * 2


def test_seeds_stand_apart_and_count_together():
    better = slices()
    better.loc[better.network == "tiny:unified", "psnr"] += 1
    table = pd.concat([slices().assign(seed=1), better.assign(seed=2)])
    lines = findings.seed_table(table, [("tiny:unified", "tiny:TASK")], "amir", "made up").splitlines()
    assert lines[2:] == [
        "| tiny (unified) − tiny (single-task) | 1 | -0.10 | -0.10 | -0.10 |",
        "| tiny (unified) − tiny (single-task) | 2 | +0.90 | +0.90 | +0.90 |",
    ]
    together = findings.difference(
        table, "tiny:unified", "tiny:ct-denoising", "ct-denoising", "amir", "made up", "both"
    )
    assert together.mean == pytest.approx(0.5 - 0.1 * 1.015)


def test_wrong_declarations_are_told(tmp_path):
    make_pairs(tmp_path, 1, (("alpha", "train"), ("beta", "test"), ("gamma", "local")))
    network = MiraNet(size_config("tiny"))
    found = declarations(tmp_path, Restorer(network).eval())  # untrained: it cannot tell any modality
    assert len(found) == 9
    assert all(item.volumes == item.disagreement == item.warned for item in found)
    for weights in network.guidance.modality.parameters():
        torch.nn.init.zeros_(weights)
    with torch.no_grad():
        network.guidance.modality.bias[Modality.CT.number] = 20  # takes everything for CT
    found = {(item.modality, item.declared): item for item in declarations(tmp_path, Restorer(network).eval())}
    assert found[Modality.CT, Modality.CT].warned == 0
    assert found[Modality.PET, Modality.CT].warned == 0
    assert found[Modality.CT, Modality.PET].values == found[Modality.CT, Modality.PET].volumes  # air is no uptake
    assert found[Modality.MR, Modality.MR].disagreement == found[Modality.MR, Modality.MR].volumes
    assert "| CT | PET |" in declaration_table(list(found.values()))


def test_blank_slices_are_counted_once_a_volume_and_told(tmp_path):
    index = make_pairs(tmp_path, 1, (("alpha", "train"), ("beta", "test"), ("gamma", "local")))
    assert count_blank(tmp_path) == Blank(volumes=0, slices=0)
    assert "No slice" in findings.blank_line(count_blank(tmp_path))
    for site in ("alpha", "gamma"):  # what was trained on does not count
        pair = next(p for p in index.pairs if p.site == site and p.task is Task.CT_DENOISING)
        volume = read_nifti(tmp_path / pair.reference)
        voxels = np.array(volume.voxels)
        voxels[[0, -1]] = -1000
        write_nifti(tmp_path / pair.reference, Volume(voxels, volume.affine))
    assert count_blank(tmp_path) == Blank(volumes=1, slices=2)
    assert "2 slices in 1 volumes" in findings.blank_line(count_blank(tmp_path))


def test_samples_show_a_hard_level_of_every_local_site(tmp_path):
    make_pairs(tmp_path, 1, (("alpha", "train"), ("beta", "local"), ("gamma", "local")))
    found = chosen(tmp_path)
    assert [(pair.task, pair.site) for pair in found] == [(task, site) for task in Task for site in ("beta", "gamma")]
    levels = {p.physics.severity for p in read_index(tmp_path).pairs if p.task is found[0].task}
    assert found[0].physics.severity == sorted(levels)[min(2, len(levels) - 1)]
    draw_samples(tmp_path, Restorer(MiraNet(size_config("tiny"))).eval(), tmp_path / "samples.png")
    assert (tmp_path / "samples.png").stat().st_size > 20_000


def test_samples_show_the_middle_of_what_is_there():
    image = np.zeros((100, 80), np.float32)
    image[70:90, 10:20] = 5
    rows, columns = window(image, Modality.PET)
    assert (rows, columns) == (slice(50, 100), slice(0, 40))
    assert window(np.zeros((40, 30), np.float32), Modality.PET) == (slice(4, 36), slice(0, 30))


def test_plots_are_drawn(tmp_path):
    table = slices()
    plots.quality_against_cost({250: table, 1000: table}, COSTS, "amir", tmp_path / "cost.png")
    plots.unified_against_single(table, "tiny", "amir", tmp_path / "unified.png")
    plots.ablations(table, "tiny", "amir", tmp_path / "ablations.png")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("cost.png", "unified.png", "ablations.png"))


def test_classical_methods_lower_noise():
    rng = np.random.default_rng(0)
    clean = np.zeros((1, 64, 64), np.float32)
    clean[:, 20:40, 20:40] = 100
    noisy = clean + 20 * rng.standard_normal(clean.shape).astype(np.float32)
    error = np.abs(noisy - clean).mean()
    assert np.abs(classical(noisy, Task.CT_DENOISING, 0.8) - clean).mean() < 0.5 * error
    assert np.abs(classical(noisy, Task.PET_SYNTHESIS, 1.0) - clean).mean() < 0.5 * error
    assert classical(noisy, Task.MRI_SUPER_RESOLUTION, 1.0) is noisy


def test_the_classical_method_is_tuned_on_validation_and_tells_an_edge(tmp_path, monkeypatch):
    make_pairs(tmp_path, 1, (("alpha", "validation"), ("beta", "test")), tasks=(Task.PET_SYNTHESIS,))
    seen = []

    def worse_by(images, task, setting):
        seen.append(setting)
        return images + np.float32(abs(setting - 1.5))

    monkeypatch.setattr(measuring, "classical", worse_by)
    found = classical_settings(tmp_path)
    assert found[Task.PET_SYNTHESIS] == Setting(1.5)
    assert "sigma 1.5 pixels)" in findings.classical_line(found)
    monkeypatch.setattr(measuring, "SIGMAS", (2.0, 3.0))
    edge = classical_settings(tmp_path)
    assert edge[Task.PET_SYNTHESIS] == Setting(2.0, at_edge=True)
    assert "sigma 2 pixels, at the edge of what was tried" in findings.classical_line(edge)
    assert not found[Task.CT_DENOISING].at_edge  # nothing to tune it on


def test_a_kept_network_is_that_of_its_settings(monkeypatch):
    budget, one = Budget(2), Training("tiny", "unified")
    own = training._settings(one, budget, 3)
    key = training._key(one, own, "data")
    assert training._key(one, own, "data") == key
    others = [training._key(one, replace(own, weight_decay=0.5), "data"), training._key(one, own, "other data")]
    monkeypatch.setattr(training, "digest_of_sources", lambda folder: "other code")
    others.append(training._key(one, own, "data"))
    assert len({key, *others}) == 4


def test_another_profile_has_its_own_table():
    lines = findings.profile_table(pd.concat([slices(), slices("fixed").assign(psnr=50.0)]), "fixed").splitlines()
    assert lines[2] == "| ct-denoising | input | 50.00 | 0.9000 | 10 |"
    assert sum("| input |" in line for line in lines) == 3


def test_wrong_instructions_come_from_all_cases_and_levels(tmp_path, monkeypatch):
    make_pairs(tmp_path, 6, (("alpha", "train"),), tasks=(Task.CT_DENOISING,))
    taken, load_slices = [], measure.load_slices

    def load(pairs, record, *rest):
        taken.append(record)
        return load_slices(pairs, record, *rest)

    monkeypatch.setattr(measure, "load_slices", load)
    instruction_bank(tmp_path, Restorer(MiraNet(size_config("tiny"))).eval(), 1)
    assert len({record.case_id for record in taken}) == 6
    assert list(Counter(record.physics.level for record in taken).values()) == [4, 4]


@pytest.mark.slow
def test_a_study_trains_measures_and_goes_on_where_it_was(tmp_path):
    make_pairs(tmp_path / "pairs", 1, (("alpha", "train"), ("beta", "test"), ("gamma", "local")))
    trainings = [Training("tiny", "unified"), Training("unet", "ct-denoising"), Training("tiny", "ct-denoising")]
    budget = Budget(2, batch_size=3, patch_size=32)
    trained = list(train_all(tmp_path / "pairs", trainings, budget, tmp_path / "work", 2))
    assert {item.training.name: item.steps for item in trained} == {
        "tiny:unified": 6,
        "unet:ct-denoising": 2,
        "tiny:ct-denoising": 2,
    }
    rates = [Training("unet@0.002", "ct-denoising"), Training("unet@0.003", "ct-denoising")]
    assert len(list(train_all(tmp_path / "pairs", rates, budget, tmp_path / "work", 2))) == 2
    assert len(list((tmp_path / "work").glob("*.partial"))) == 5  # none resumes from another's checkpoints
    again = list(train_all(tmp_path / "pairs", trainings, budget, tmp_path / "work", 2))
    assert sorted(i.seconds for i in again) == sorted(i.seconds for i in trained)  # kept, not trained again
    settings = classical_settings(tmp_path / "pairs")
    table = slice_table(measure_all(tmp_path / "pairs", trained, 1, seed=0, settings=settings), ["amir"])
    networks = set(table[table.task == "ct-denoising"].network)
    assert networks == {"input", CLASSICAL, SHUFFLED, "tiny:unified", "unet:ct-denoising", "tiny:ct-denoising"}
    assert "unet:ct-denoising" not in set(table[table.task == "pet-synthesis"].network)
    assert cost_of(load_network(trained[0])).multiplications > 1000
