"""What one accepted run leaves for the next: a saved version, its distributions and its splits."""

import json
from pathlib import Path

import pytest

from components.versions.actions import restore
from components.versions.store import Store
from mira.pairs import read_index
from mira.storage import write_json
from pipelines.history import accept, known_before
from tests.components.made_up import make_cases, make_pairs


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace whose newest run has cases, a validation with a profile, and pairs."""
    made = tmp_path / "kfp"
    make_cases(made / "cases")
    make_pairs(made / "pairs", 1)
    write_json(made / "validation" / "profile.json", {"made": "up"})
    where = {part: str(made / part) for part in ("cases", "validation", "pairs")}
    write_json(tmp_path / "artifacts.json", where)
    return tmp_path


def test_a_first_run_knows_nothing(workspace: Path) -> None:
    assert known_before(workspace, "monday") == ("", "")


def test_new_data_is_compared_with_the_last_accepted(workspace: Path) -> None:
    version = accept(workspace, "monday", "", "")
    assert known_before(workspace, "monday") == ("", "")  # the same again, so that its steps are re-used
    baseline, previous = known_before(workspace, "tuesday")
    assert json.loads(Path(baseline).read_text()) == {"made": "up"}
    assert read_index(Path(previous)).data_version == version
    accept(workspace, "tuesday", baseline, previous)
    assert known_before(workspace, "tuesday") == (baseline, previous)


def test_the_data_of_an_accepted_run_comes_back_by_its_name(workspace: Path) -> None:
    version = accept(workspace, "monday", "", "")
    restore(Store(workspace / "data" / "versions"), version, workspace / "data")
    assert read_index(workspace / "data" / "pairs").data_version == version
    assert (workspace / "data" / "cases").is_dir()
