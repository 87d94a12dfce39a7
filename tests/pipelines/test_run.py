"""The whole factory on a very small set, through the compiled pipeline and the real Triton server.

One module-wide workspace is run several times: promoted, unchanged, refused by a stricter policy, and with a bad site.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from mira.phantom.demo import DemoConfig, make_demo
from pipelines.factory import POLICY
from tests.dicom_checks import assert_valid_dicom
from tests.phi_scan.scanner import Scanner, Secret

pytestmark = [pytest.mark.slow, pytest.mark.triton]

SMALL = {
    "demo": {"preset": "small"},
    "train": {"steps_per_task": 12, "batch_size": 4, "patch_size": 32, "learning_rate": 0.001},
    "evaluate": {"max_slices_per_case": 2},
}


@dataclass(frozen=True)
class Factory:
    """A workspace and the way to run the factory in it."""

    folder: Path

    @property
    def workspace(self) -> Path:
        return self.folder / "workspace"

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "MIRA_PSEUDONYM_KEY": "0123456789abcdef" * 4}

    def mira(self, *words: str, policy: dict[str, object] | None = None) -> subprocess.CompletedProcess[str]:
        """Run `mira` and return what it printed."""
        command = [sys.executable, "-m", "mira.cli", *words]
        if words[0] == "run":
            (self.folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
            (self.folder / "policy.yaml").write_text(yaml.safe_dump(policy))
            command += ["--config", str(self.folder / "small.yaml"), "--policy", str(self.folder / "policy.yaml")]
            command += ["--repository", str(self.folder / "models")]
        command += ["--workspace", str(self.workspace)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=self.environment, timeout=600)


def with_gain_of(decibels: float) -> dict[str, object]:
    """The policy with the one rule that every task gains at least so much over its degraded input."""
    policy = yaml.safe_load(POLICY)
    rule = next(gate for gate in policy["protocol"]["gates"] if gate["id"] == "gain-test")
    policy["protocol"]["gates"] = [{**rule, "threshold": {"above": decibels}}]
    policy["impact"] = [{"risk": "worse than its input", "harm": "misread", "controlled_by": [rule["id"]]}]
    return policy


@pytest.fixture(scope="module")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Factory]:
    made = Factory(tmp_path_factory.mktemp("factory"))
    yield made
    made.mira("serve", "--stop")


@pytest.fixture(scope="module")
def promoted(factory: Factory) -> subprocess.CompletedProcess[str]:
    sites = make_demo(factory.folder / "demo", DemoConfig.model_validate(SMALL["demo"]))
    done = factory.mira("run", "--sites", str(sites), policy=with_gain_of(-100.0))
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_a_run_ends_with_a_served_model_and_says_where_everything_is(
    factory: Factory, promoted: subprocess.CompletedProcess[str]
) -> None:
    for step in ("ingest", "validate", "pair", "train", "evaluate", "gate", "register", "export", "promote", "restore"):
        assert f"done   {step}" in promoted.stdout
    report = factory.workspace / "report.html"
    assert str(report) in promoted.stdout
    page = report.read_text()
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<img" in page
    status = json.loads(factory.mira("status", "--json").stdout)
    assert status["version"] == 1
    assert status["champion"] == 1


def test_the_data_of_an_accepted_run_is_kept_as_a_version(
    factory: Factory, promoted: subprocess.CompletedProcess[str]
) -> None:
    kept = json.loads((factory.workspace / "accepted.json").read_text())["data_version"]
    pairs = Path(json.loads((factory.workspace / "artifacts.json").read_text())["pairs"])
    assert json.loads((pairs / "pairs.json").read_text())["data_version"] == kept
    assert f"mira data restore {kept}" in promoted.stdout
    assert (factory.workspace / "data" / "versions" / "profiles" / f"{kept}.json").is_file()


def test_the_restored_series_are_valid_dicom(factory: Factory, promoted: subprocess.CompletedProcess[str]) -> None:
    files = sorted((factory.workspace / "restored").rglob("*.dcm"))
    assert len(files) >= 6
    for path in files[:: max(1, len(files) // 6)]:
        assert_valid_dicom(path)


def test_no_artifact_carries_the_patient(factory: Factory, promoted: subprocess.CompletedProcess[str]) -> None:
    """Every byte of a run, unpacked, in every form of the inbox's names, numbers and UIDs; see tests/phi_scan."""
    import pydicom

    secrets: dict[str, Secret] = {}
    for path in (factory.folder / "demo" / "inbox").rglob("*"):
        if path.is_file() and path.read_bytes()[128:132] == b"DICM":
            header = pydicom.dcmread(path, stop_before_pixels=True)
            for keyword in ("PatientName", "PatientID", "AccessionNumber", "StudyInstanceUID"):
                value = str(header.get(keyword, ""))
                if value:
                    secrets[value] = Secret(keyword, value)
    assert len(secrets) > 10
    scanner = Scanner(secrets.values())
    for part in ("kfp", "cases", "mlflow.db", "mlartifacts", "logs", "report.html", "serving"):
        root = factory.workspace / part
        assert root.exists(), part
        if root.is_file():
            scanner.data(root.read_bytes(), part)
        else:
            scanner.tree(root)
    assert not scanner.report.hits
    assert scanner.report.files > 100


def test_a_second_run_with_nothing_changed_reuses_everything(
    factory: Factory, promoted: subprocess.CompletedProcess[str]
) -> None:
    again = factory.mira("run", "--sites", str(factory.folder / "demo" / "sites.yaml"), policy=with_gain_of(-100.0))
    assert again.returncode == 0, again.stdout + again.stderr
    ran = {line.split()[1] for line in again.stdout.splitlines() if line.strip().startswith("done")}
    assert ran == {"check-triton", "champion", "promote", "report"}
    assert json.loads(factory.mira("status", "--json").stdout)["version"] == 1


def test_a_refused_candidate_leaves_what_serves(factory: Factory, promoted: subprocess.CompletedProcess[str]) -> None:
    refused = factory.mira("run", "--sites", str(factory.folder / "demo" / "sites.yaml"), policy=with_gain_of(100.0))
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert "what served still serves" in refused.stdout
    ran = {line.split()[1] for line in refused.stdout.splitlines() if line.strip().startswith("done")}
    assert ran == {"check-triton", "champion", "gate", "report-2"}
    assert json.loads(factory.mira("status", "--json").stdout)["version"] == 1
    assert "100" in (factory.workspace / "report.html").read_text()


def test_a_bad_site_is_set_aside_and_the_others_go_on(
    factory: Factory, promoted: subprocess.CompletedProcess[str]
) -> None:
    inbox = factory.folder / "demo" / "inbox"
    bad = factory.folder / "demo" / "bad"
    bad.mkdir()
    first = next(path for path in sorted(inbox.rglob("*.dcm")))
    shutil.copyfile(first, bad / "one.dcm")
    (bad / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0 not DICOM")
    sites = yaml.safe_load((factory.folder / "demo" / "sites.yaml").read_text())
    sites["sites"].append({"id": "site-bad", "role": "train", "path": "bad", "minimum_cases": 1})
    path = factory.folder / "demo" / "with-bad.yaml"
    path.write_text(yaml.safe_dump(sites))
    done = factory.mira("run", "--sites", str(path), policy=with_gain_of(-100.0))
    assert done.returncode in (0, 4), done.stdout + done.stderr
    page = (factory.workspace / "report.html").read_text()
    assert "site-bad" in page
    artifacts = json.loads((factory.workspace / "artifacts.json").read_text())
    validation = json.loads((Path(artifacts["validation"]) / "validation.json").read_text())
    assert validation["sites"]["site-bad"]["status"] == "set aside"
    assert {site["status"] for name, site in validation["sites"].items() if name != "site-bad"} == {"accepted"}


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ({}, 3, "the folder is empty"),
        ({"a.jpg": b"\xff\xd8\xff\xe0", "b.jpg": b"\xff\xd8\xff\xe0"}, 3, "no DICOM was found"),
    ],
)
def test_folders_without_dicom_end_with_what_to_do(
    tmp_path: Path, content: dict[str, bytes], code: int, words: str
) -> None:
    (tmp_path / "inbox").mkdir()
    for name, data in content.items():
        (tmp_path / "inbox" / name).write_bytes(data)
    path = tmp_path / "sites.yaml"
    path.write_text("sites: [{id: site-a, role: train, path: inbox}]\n")
    done = Factory(tmp_path).mira("run", "--sites", str(path), policy=with_gain_of(0.0))
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stderr


def test_a_misspelt_role_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "inbox").mkdir()
    path = tmp_path / "sites.yaml"
    path.write_text("sites:\n  - id: site-a\n    role: trian\n    path: inbox\n")
    done = Factory(tmp_path).mira("run", "--sites", str(path), policy=with_gain_of(0.0))
    assert done.returncode == 2
    assert "line 3" in done.stderr
    assert "'train' or 'local'" in done.stderr
