"""The pair step: splits without leaks, the same pairs whatever the workers, and only what changed made again."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.pair.__main__ import main as command_main
from components.pair.splits import assign
from components.pair.step import PairConfig, pair
from components.pair.work import choose_slices, every
from mira.cases import CaseRecord, write_case
from mira.degrade import kspace
from mira.errors import ConfigurationError, DataRejected
from mira.pairs import read_index, read_pair
from mira.storage import hash_tree, write_json
from mira.tasks import Task, Unit
from mira.volume import Volume, read_nifti
from tests.mira.case_records import case_record
from tests.mira.test_degrade_mr_support import anatomy

SIDE = 24


def make_case(root: Path, site: str, patient: str, modality: str, role: str = "train", slices: int = 3) -> CaseRecord:
    disc = np.hypot(*(np.indices((SIDE, SIDE)) - SIDE / 2)) < SIDE / 3
    inside, outside = {"CT": (40, -1000), "PET": (2, 0), "MR": (500, 5)}[modality]
    image = np.where(disc, inside, outside) + np.random.default_rng(len(patient)).random((slices, SIDE, SIDE))
    case_id = f"{patient}-{modality.lower()}"
    record = case_record(
        modality, case_id=case_id, site=site, patient=patient, role=role, shape=(slices, SIDE, SIDE),
        scanner={"manufacturer": "ACME", "model": "One"},
    )  # fmt: skip
    structures = Volume(np.repeat(disc[None], slices, axis=0).astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0]))
    volume = Volume(image.astype(np.float32), np.diag([2.0, 2.0, 3.0, 1.0]))
    write_case(root, record, volume, structures if modality == "CT" else None)
    return record


@pytest.fixture
def cases(tmp_path) -> Path:
    root = tmp_path / "cases"
    records = [make_case(root, "site-a", f"a{i}", m) for i in range(5) for m in ("CT", "PET", "MR")]
    records += [make_case(root, "site-b", "b0", "CT"), make_case(root, "site-l", "l0", "CT", role="local")]
    accept(tmp_path, records)
    return root


def accept(folder: Path, records: list[CaseRecord]) -> Path:
    path = folder / "validation.json"
    write_json(path, {"accepted": [r.case_id for r in records], "sites": {}})
    return path


CONFIG = PairConfig(workers=1)


def test_pairs_of_every_task_level_and_split(cases, tmp_path):
    out = tmp_path / "pairs"
    summary = pair(cases, tmp_path / "validation.json", out, CONFIG)
    index = read_index(out)
    assert summary.tasks == list(Task)
    assert summary.refused == {}
    assert len(index.pairs) == 17 * 2
    assert summary.counts["train patients"] == 4
    assert summary.counts["test patients"] == summary.counts["validation patients"] == 1
    assert summary.counts["local ct-denoising"] == 2
    for entry in index.pairs:
        degraded, reference = read_pair(out, entry)
        assert degraded.voxels.shape == reference.voxels.shape == entry.shape
        np.testing.assert_allclose(degraded.affine, reference.affine)
        assert not np.array_equal(degraded.voxels, reference.voxels)
        assert entry.manufacturer == "ACME"
        assert (entry.structures is not None) == (entry.task is Task.CT_DENOISING)
        assert entry.structures is None or (out / entry.structures).is_file()
    assert len({entry.physics.seed for entry in index.pairs}) == len(index.pairs)


def test_no_patient_is_in_two_splits_and_local_is_never_trained_on(cases, tmp_path):
    pair(cases, tmp_path / "validation.json", tmp_path / "pairs", CONFIG)
    index = read_index(tmp_path / "pairs")
    splits: dict[str, set[str]] = {}
    for entry in index.pairs:
        splits.setdefault(entry.patient, set()).add(entry.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {e.split for e in index.pairs if e.site == "site-l"} == {"local"}
    assert {e.split for e in index.pairs if e.site == "site-b"} == {"train"}  # too small a site to give test patients


def test_same_pairs_whatever_the_number_of_workers(cases, tmp_path):
    one = pair(cases, tmp_path / "validation.json", tmp_path / "one", CONFIG)
    two = pair(cases, tmp_path / "validation.json", tmp_path / "two", PairConfig(workers=2))
    assert hash_tree(tmp_path / "one") == hash_tree(tmp_path / "two")
    assert one == two


def test_unchanged_pairs_are_taken_over_and_others_are_made_again(cases, tmp_path):
    validation, out = tmp_path / "validation.json", tmp_path / "pairs"
    first = pair(cases, validation, out, CONFIG)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("level-*.nii")}
    (out / "ct-denoising" / ".partial-left").mkdir()  # what a killed step leaves
    again = pair(cases, validation, out, CONFIG)
    assert again.reused == 17
    assert again.data_version == first.data_version
    assert {path: path.stat().st_mtime_ns for path in out.rglob("level-*.nii")} == before
    assert not (out / "ct-denoising" / ".partial-left").exists()
    other = pair(cases, validation, out, PairConfig(workers=1, levels={Task.CT_DENOISING: [0.5]}))
    assert other.reused == 10
    assert other.data_version != first.data_version
    assert sorted(p.name for p in (out / "ct-denoising" / "a0-ct").glob("level*")) == ["level-0.5.nii"]


def test_a_half_written_case_is_made_again(cases, tmp_path):
    validation, out = tmp_path / "validation.json", tmp_path / "pairs"
    pair(cases, validation, out, CONFIG)
    want = hash_tree(out)
    (out / "pairs.json").unlink()
    (out / "ct-denoising/a0-ct/pair.json").unlink()
    (out / "ct-denoising/a0-ct/level-0.1.nii").unlink()
    assert pair(cases, validation, out, CONFIG).reused == 16
    assert hash_tree(out) == want


def test_cases_that_are_no_longer_accepted_leave(cases, tmp_path):
    out = tmp_path / "pairs"
    pair(cases, tmp_path / "validation.json", out, CONFIG)
    accepted = json.loads((tmp_path / "validation.json").read_text())["accepted"]
    accepted.remove("a0-ct")
    write_json(tmp_path / "validation.json", {"accepted": accepted})
    pair(cases, tmp_path, out, CONFIG)  # the folder of validation.json will do as well
    assert not (out / "ct-denoising" / "a0-ct").exists()
    assert (out / "ct-denoising" / "a1-ct").exists()


def test_new_patients_do_not_move_the_old(cases, tmp_path):
    pair(cases, tmp_path / "validation.json", tmp_path / "pairs", CONFIG)
    before = {e.patient: e.split for e in read_index(tmp_path / "pairs").pairs}
    records = [make_case(cases, "site-a", f"n{i}", "CT") for i in range(7)]
    known = json.loads((tmp_path / "validation.json").read_text())["accepted"]
    write_json(tmp_path / "validation.json", {"accepted": known + [r.case_id for r in records]})
    config = PairConfig(workers=1, previous=tmp_path / "pairs" / "pairs.json")
    pair(cases, tmp_path / "validation.json", tmp_path / "more", config)
    after = {e.patient: e.split for e in read_index(tmp_path / "more").pairs}
    assert {patient: after[patient] for patient in before} == before
    assert sum(split == "test" for split in after.values()) == 2  # a fifth of site-a's twelve patients


def test_a_patient_of_a_train_and_a_local_site_is_refused(cases, tmp_path):
    records = [make_case(cases, "site-l", "a1", "MR", role="local")]
    known = [f"a{i}-ct" for i in range(5)]
    (cases / "site-a" / "a1-mr" / "case.json").unlink()
    write_json(tmp_path / "validation.json", {"accepted": known + [r.case_id for r in records]})
    with pytest.raises(DataRejected, match="a1 is known to a train site and to a local site"):
        pair(cases, tmp_path / "validation.json", tmp_path / "pairs", CONFIG)
    assert not (tmp_path / "pairs").exists()


def test_a_patient_whose_site_changed_its_role_is_refused():
    records = [case_record("CT", case_id=f"c{i}", patient=f"p{i}") for i in range(4)]
    with pytest.raises(DataRejected, match="was in split local before"):
        assign(records, 1, 0.2, 0.2, {"p0": "local"})


def test_cases_without_known_physics_are_refused_by_name(cases, tmp_path):
    record = make_case(cases, "site-a", "q0", "PET").model_copy(update={"unit": Unit.BQML, "tasks": []})
    write_json(record.folder(cases) / "case.json", record.model_dump(mode="json"))
    known = json.loads((tmp_path / "validation.json").read_text())["accepted"]
    write_json(tmp_path / "validation.json", {"accepted": [*known, "q0-pet"]})
    summary = pair(cases, tmp_path / "validation.json", tmp_path / "pairs", CONFIG)
    assert "BQML" in summary.refused["q0-pet"]
    assert summary.counts["refused"] == 1
    assert not (tmp_path / "pairs/pet-synthesis/q0-pet").exists()
    write_json(tmp_path / "validation.json", {"accepted": ["q0-pet"]})
    with pytest.raises(DataRejected, match=r"No case could be paired: .*BQML"):
        pair(cases, tmp_path / "validation.json", tmp_path / "other", CONFIG)


def test_interpolated_mr_is_refused_where_too_little_is_left_and_a_contradicting_header_is_named(cases, tmp_path):
    records = []
    for patient, acquired in (("few", 48), ("odd", 72)):
        images = anatomy(6, acquired, acquired)
        stored = np.abs(kspace.to_image(kspace.to_kspace(images), (96, 96))).astype(np.float32)
        records.append(
            case_record(
                "MR", {"acquired_rows": 96, "acquired_columns": 96} if patient == "odd" else None,
                case_id=f"{patient}-mr", patient=patient, shape=stored.shape,
            )
        )  # fmt: skip
        write_case(cases, records[-1], Volume(stored, np.diag([2.0, 2.0, 3.0, 1.0])))
    accept(tmp_path, records)
    summary = pair(cases, tmp_path / "validation.json", tmp_path / "pairs", CONFIG)  # levels 2 and 4
    assert "factor 4 would keep 12; at least 16" in summary.refused["few-mr"]
    assert not (tmp_path / "pairs/mri-super-resolution/few-mr").exists()
    assert summary.warnings == {"odd-mr": ["acquisition-matrix-disagrees"]}
    for entry in read_index(tmp_path / "pairs").pairs:
        assert entry.physics.parameters["kept_rows"] == pytest.approx(72 / entry.physics.level, abs=1)


def test_validation_must_name_these_cases(cases, tmp_path):
    with pytest.raises(DataRejected, match="Run the validate step"):
        pair(cases, tmp_path / "nothing", tmp_path / "pairs", CONFIG)
    write_json(tmp_path / "validation.json", {"sites": {}})
    with pytest.raises(DataRejected, match="does not list the accepted"):
        pair(cases, tmp_path / "validation.json", tmp_path / "pairs", CONFIG)
    write_json(tmp_path / "validation.json", {"accepted": ["gone"]})
    with pytest.raises(DataRejected, match="gone"):
        pair(cases, tmp_path / "validation.json", tmp_path / "pairs", CONFIG)


def test_long_volumes_are_thinned_evenly_and_keep_their_geometry(tmp_path):
    root = tmp_path / "cases"
    records = [make_case(root, "site-a", "a0", "MR", slices=25)]
    config = PairConfig(workers=1, max_slices_per_case=10)
    pair(root, accept(tmp_path, records), tmp_path / "pairs", config)
    entry = read_index(tmp_path / "pairs").pairs[0]
    assert entry.shape == (9, SIDE, SIDE)
    assert entry.spacing_mm[0] == pytest.approx(9.0)
    first, stride = entry.physics.parameters["first_slice"], entry.physics.parameters["slice_stride"]
    assert (first, stride) == (0, 3)


def test_a_run_holds_the_neighbours_in_the_middle_of_a_case(tmp_path):
    root = tmp_path / "cases"
    records = [make_case(root, "site-a", "a0", "CT", slices=25)]
    validation = accept(tmp_path, records)
    spread = pair(root, validation, tmp_path / "pairs", PairConfig(workers=1, max_slices_per_case=10))
    named = PairConfig(workers=1, max_slices_per_case=10, slice_choice="spread")
    assert pair(root, validation, tmp_path / "pairs", named) == spread.model_copy(update={"reused": 1})
    config = PairConfig(workers=1, max_slices_per_case=10, slice_choice="run")
    run = pair(root, validation, tmp_path / "pairs", config)
    assert run.reused == 0
    assert run.data_version != spread.data_version
    entry = read_index(tmp_path / "pairs").pairs[0]
    assert entry.shape == (10, SIDE, SIDE)
    assert entry.spacing_mm[0] == pytest.approx(3.0)
    assert (entry.physics.parameters["first_slice"], entry.slice_stride) == (7, 1)
    case = read_nifti(records[0].folder(root) / "image.nii")
    degraded, reference = read_pair(tmp_path / "pairs", entry)
    np.testing.assert_array_equal(reference.voxels, case.voxels[7:17])
    np.testing.assert_allclose(degraded.affine @ [0, 0, 0, 1], case.affine @ [0, 0, 7, 1])
    assert read_nifti(tmp_path / "pairs" / entry.structures).voxels.shape == entry.shape


@pytest.mark.parametrize(("count", "maximum"), [(7, 3), (100, 32), (5, 5), (9, 1), (33, 32), (9, 0)])
def test_a_run_is_centred_and_leaves_none_out(count, maximum):
    first, stride = choose_slices(count, maximum, "run")
    taken = min(count, maximum or count)
    assert stride == 1
    assert abs(first - (count - first - taken)) <= 1


@pytest.mark.parametrize(("count", "maximum"), [(7, 3), (100, 32), (267, 32), (5, 5), (9, 1), (33, 32)])
def test_chosen_slices_lie_inside_and_are_centred(count, maximum):
    first, stride = choose_slices(count, maximum)
    taken = every(Volume(np.arange(count, dtype=np.float32)[:, None, None], np.eye(4)), first, stride, maximum)
    numbers = taken.voxels.ravel()
    assert 1 <= len(numbers) <= maximum
    assert abs(numbers[0] - (count - 1 - numbers[-1])) <= 1
    np.testing.assert_allclose(taken.affine @ [0, 0, 1, 1], [0, 0, numbers[0] + stride, 1])


def test_splits_are_stratified_over_tasks_when_patients_have_one_modality_each():
    kinds = ["CT"] * 5 + ["PET"] * 5 + ["MR"] * 5
    records = [case_record(m, case_id=f"c{i}", patient=f"p{i}") for i, m in enumerate(kinds)]
    splits = assign(records, 1, 0.2, 0.2)
    for start in (0, 5, 10):
        found = [splits[f"p{i}"] for i in range(start, start + 5)]
        assert sorted(found) == ["test", "train", "train", "train", "validation"]
    assert splits == assign(reversed(records), 1, 0.2, 0.2)
    assert splits != assign(records, 2, 0.2, 0.2)


def test_small_sites_give_test_patients_only_where_a_task_would_have_none():
    records = [case_record("CT", case_id=f"c{i}", patient=f"p{i}", site=f"site-{i}") for i in range(5)]
    found = sorted(assign(records, 1, 0.2, 0.2).values())
    assert found == ["test", "train", "train", "train", "validation"]
    assert list(assign(records[:1], 1, 0.2, 0.2).values()) == ["train"]
    big = [case_record("CT", case_id=f"b{i}", patient=f"b{i}", site="big") for i in range(10)]
    mixed = assign(records + big, 1, 0.2, 0.2)
    assert {mixed[f"p{i}"] for i in range(5)} == {"train"}
    assert sorted(mixed[f"b{i}"] for i in range(10)).count("test") == 2


def test_impossible_levels_are_named_before_any_work():
    with pytest.raises(ValueError, match="dose fraction must be above 0 and below 1"):
        PairConfig(levels={Task.CT_DENOISING: [4.0]})
    with pytest.raises(ValueError, match="each once"):
        PairConfig(levels={Task.CT_DENOISING: [0.5, 0.5]})


def test_command_line_reads_its_section(cases, tmp_path, capsys):
    from components.command import main

    parameters = tmp_path / "params.yaml"
    parameters.write_text("pair: {seed: 3, tasks: [ct-denoising], workers: 1}\n")
    validation, out = tmp_path / "validation.json", tmp_path / "pairs"
    arguments = ["--cases", str(cases), "--validation", str(validation), "--out", str(out), "--config", str(parameters)]
    assert command_main is main
    assert main("pair", PairConfig, ["cases", "validation", "out"], pair, "", arguments) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert summary["tasks"] == ["ct-denoising"]
    assert summary["counts"]["refused"] == 10
    parameters.write_text("pair: {sed: 3}\n")
    assert main("pair", PairConfig, ["cases", "validation", "out"], pair, "", arguments) == ConfigurationError.exit_code


def test_a_pet_is_attenuated_by_the_ct_of_its_own_examination(cases, tmp_path):
    validation, out = tmp_path / "validation.json", tmp_path / "pairs"

    def attenuations() -> dict[str, object]:
        pets = read_index(out).select("train", "validation", "test", "local", task=Task.PET_SYNTHESIS)
        return {entry.case_id: entry.physics.parameters["attenuation"] for entry in pets}

    def give_frames(frames: dict[str, str]) -> None:
        for case_id, frame in frames.items():
            path = cases / "site-a" / case_id / "case.json"
            write_json(path, {**json.loads(path.read_text()), "frame_of_reference": frame})

    pair(cases, validation, out, CONFIG)
    assert set(attenuations().values()) == {"water-outline"}  # no frame of reference is known
    give_frames({"a0-pet": "frame-1", "a0-ct": "frame-1", "a0-mr": "frame-1", "a1-pet": "frame-2", "a1-ct": "frame-3"})
    before = (out / "pet-synthesis/a0-pet/level-0.1.nii").read_bytes()
    summary = pair(cases, validation, out, CONFIG)
    assert {case for case, source in attenuations().items() if source == "ct"} == {"a0-pet"}
    assert summary.reused == 12  # five cases have a new frame of reference
    assert (out / "pet-synthesis/a0-pet/level-0.1.nii").read_bytes() != before
    path = cases / "site-a/a0-ct/case.json"
    write_json(path, {**json.loads(path.read_text()), "source_sha256": "0" * 64})
    assert pair(cases, validation, out, CONFIG).reused == 15  # another CT: its own pairs and those of its PET
