"""The contracts that every step shares: storage, sites.yaml, cases, the command line of steps."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import BaseModel, ConfigDict, Field

from components.command import load_config, main
from mira.cases import CaseRecord, iterate_cases, read_volume, write_case
from mira.errors import ConfigurationError, DataRejected
from mira.sites import load_sites
from mira.storage import atomic_file, atomic_folder, hash_tree, write_json
from mira.tasks import TASKS, Modality, Unit, task_of
from mira.volume import Volume, read_nifti, write_nifti


def a_record(**changes: object) -> CaseRecord:
    values: dict[str, object] = {
        "case_id": "c1",
        "site": "site-a",
        "role": "train",
        "patient": "p1",
        "study": "s1",
        "series": "e1",
        "modality": Modality.CT,
        "unit": Unit.HU,
        "shape": (3, 4, 5),
        "spacing_mm": (2.0, 1.0, 1.0),
        "source_sha256": "0" * 64,
        "source_files": 3,
        "software": "test",
    }
    return CaseRecord.model_validate({**values, **changes})


def test_a_killed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("killed")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_killed_folder_leaves_the_old_folder_and_a_good_one_replaces_it(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    for text in ("old", "new"):
        with atomic_folder(folder) as temporary:
            (temporary / "a").write_text(text)
    assert (folder / "a").read_text() == "new"
    with pytest.raises(RuntimeError), atomic_folder(folder) as temporary:
        (temporary / "a").write_text("half")
        raise RuntimeError("killed")
    assert (folder / "a").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_the_hash_of_a_tree_is_of_names_and_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = hash_tree(tmp_path)
    (tmp_path / "a").touch()
    assert hash_tree(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert hash_tree(tmp_path) != first


def test_json_refuses_what_it_has_no_word_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"psnr": float("inf")})
    assert list(tmp_path.iterdir()) == []


def test_a_volume_comes_back_with_voxels_and_oblique_geometry(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(generator.normal(size=(3, 3)))[0] * [0.7, 0.9, 3.0]
    affine[:3, 3] = [-120.5, 33.25, 700.0]
    volume = Volume(generator.normal(size=(3, 5, 7)).astype(np.float32), affine)
    write_nifti(tmp_path / "v.nii", volume)
    back = read_nifti(tmp_path / "v.nii")
    assert np.array_equal(back.voxels, volume.voxels)
    assert np.allclose(back.affine, affine, atol=1e-4)
    assert np.allclose(back.spacing, (3.0, 0.9, 0.7))


def test_a_file_that_is_not_nifti_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "v.nii").write_bytes(b"not an image")
    with pytest.raises(DataRejected, match="not a readable NIfTI"):
        read_nifti(tmp_path / "v.nii")


def test_a_case_without_its_record_does_not_exist(tmp_path: Path) -> None:
    record = a_record()
    folder = write_case(tmp_path, record, Volume(np.ones((3, 4, 5), np.float32), np.eye(4)))
    assert [r for _, r in iterate_cases(tmp_path)] == [record]
    assert read_volume(folder).voxels.shape == record.shape
    (folder / "case.json").unlink()
    assert list(iterate_cases(tmp_path)) == []


def test_every_modality_has_its_task() -> None:
    assert {task_of(modality).task for modality in Modality} == set(TASKS)
    assert Modality.from_dicom("PT") is Modality.PET
    with pytest.raises(ValueError, match="US"):
        Modality.from_dicom("US")


SITES = """
sites:
  - id: site-a
    role: train
    path: a
  - id: site-b
    role: local
    path: b
    minimum_cases: 2
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("role: local", "role: lokal", 7, "'train' or 'local'"),
        ("minimum_cases", "minimum_case", 9, "Extra inputs"),
        ("path: b", "path: nowhere", 8, "does not exist"),
        ("id: site-b", "id: site-a", 2, "unique"),
        ("id: site-b", "id: Site B", 6, "pattern"),
        ("    role: train", "   role: train", 4, "YAML"),
    ],
)
def test_a_wrong_sites_file_names_line_and_cure(tmp_path: Path, old: str, new: str, line: int, words: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    path = tmp_path / "sites.yaml"
    path.write_text(SITES)
    assert [site.path for site in load_sites(path).sites] == [tmp_path / "a", tmp_path / "b"]
    path.write_text(SITES.replace(old, new))
    with pytest.raises(ConfigurationError) as caught:
        load_sites(path)
    assert f"line {line}" in str(caught.value)
    assert words in str(caught.value)


class AConfig(BaseModel):
    model_config = ConfigDict(extra="forbid")
    levels: int = Field(default=2, description="how many", gt=0)


def test_the_command_line_of_a_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[str, object] = {}

    def call(**arguments: object) -> AConfig:
        seen.update(arguments)
        return AConfig(levels=5)

    params = tmp_path / "params.yaml"
    params.write_text("pair: {levels: 3}\n")
    words = ["--cases", "c", "--networks", "a", "--networks", "b", "--config", str(params)]
    assert main("pair", AConfig, ["cases", "networks*", "champion?"], call, "does things", words) == 0
    assert seen == {
        "cases": Path("c"),
        "networks": [Path("a"), Path("b")],
        "champion": None,
        "config": AConfig(levels=3),
    }
    assert capsys.readouterr().out == '{"levels": 5}\n'


@pytest.mark.parametrize(("error", "code"), [(DataRejected("no case"), 3), (ConfigurationError("bad"), 2)])
def test_a_step_exits_with_the_code_of_its_error(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(**_: object) -> None:
        raise error

    assert main("pair", AConfig, [], call, "does things", []) == code
    assert str(error) in capsys.readouterr().err


def test_a_wrong_parameter_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("pair: {level: 3}\n")
    with pytest.raises(ConfigurationError, match="section pair: level"):
        load_config(AConfig, tmp_path / "params.yaml", "pair")
