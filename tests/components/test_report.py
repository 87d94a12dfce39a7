import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components.evaluate.step import EvaluateConfig, evaluate
from components.gate.step import gate
from components.report.page import curve, number, render
from components.report.step import ReportConfig, report
from components.validate.step import ValidateConfig, validate
from mira.pairs import read_index, write_index
from mira.storage import read_json, write_json
from mira.tasks import Modality, Task
from tests.components.made_up import make_case, make_cases, make_evaluation, make_network, make_pairs
from tests.components.test_gate import POLICY

NETWORK = re.compile(r"""(src|href)\s*=\s*["']?\s*(https?:)?//|@import|<script|<link|url\(""", re.I)
RESTORED = {
    "series": [
        {"site": "gamma", "modality": "CT", "task": "ct-denoising", "slices": 24, "seconds": 3.2, "model": "mira_net 7",
         "degradation": 0.8, "simulated": 0.1, "profile": "amir", "input_psnr_db": 24.0, "restored_psnr_db": 28.56,
         "gain_db": 4.56, "input_ssim": 0.5, "restored_ssim": 0.8, "warnings": ""},
    ],
    "missing": {"PET": "no local site offers one"},
    "pictures": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """What the steps of a refused run leave: everything up to the gate."""
    root = tmp_path_factory.mktemp("report")
    make_cases(root / "cases")
    make_case(root / "cases", "alpha", 9, Modality.PET, tasks=[], task_refusals={"pet-synthesis": "no injected dose"})
    make_case(root / "cases", "delta", 0, Modality.CT)
    ingest = read_json(root / "cases" / "ingest.json")
    ingest["sites"]["delta"] = {"role": "train", "minimum_cases": 2, "remark": ""}
    ingest["sites"]["gamma"]["remark"] = "Shares its scanner with alpha <b>."
    write_json(root / "cases" / "ingest.json", ingest)
    rejected = {"site": "beta", "kind": "file", "reason": "not-dicom", "text": "The file is not DICOM.", "files": 3}
    write_json(root / "cases" / "quarantine.json", {"rejected": [rejected]})
    validate(root / "cases", root / "validation", ValidateConfig())
    make_pairs(root / "pairs", patients=1)
    for name in ("unified", *Task):
        folder = make_network(root / "networks" / name, str(name), run_id=f"run-{name}")
        task = Task.CT_DENOISING if name == "unified" else name
        (folder / "history.csv").write_text(f"step,loss,gain_db/{task}\n0,1.0,\n100,0.5,2.0\n200,0.4,2.5\n")
    networks = sorted((root / "networks").iterdir())
    evaluate(root / "pairs", networks, None, root / "evaluation", EvaluateConfig(bootstrap_draws=100, threads=1))
    gate(root / "evaluation", POLICY, root / "decision")
    parts = {name: root / name for name in ("cases", "validation", "pairs", "evaluation", "decision")}
    return root, parts | {f"network:{folder.name}": folder for folder in networks}


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_a_refused_run_is_told_whole_and_what_did_not_happen_says_why(run, tmp_path):
    root, parts = run
    page = text_of(report(parts, tmp_path, ReportConfig(workspace=str(root))))
    assert "The gate refused the candidate" in page
    assert "gain-test: 0 dB, needed &gt; 0 dB" in page
    assert page.count("because the gate refused the candidate (gain-test, gain-local)") == 2
    assert "has-task: no injected dose" in page
    assert "The file is not DICOM." in page
    assert "1 of 1 cases accepted, 2 needed" in page
    assert "Shares its scanner with alpha &lt;b&gt;." in page
    assert page.count("data:image/png;base64") == 6
    assert page.count("<polyline") == 8  # four losses and four gains
    assert "evaluation" in page[page.index('id="where"') :]
    assert str(root) not in page


def test_it_fetches_nothing_and_names_no_patient(run, tmp_path):
    page = text_of(report(run[1], tmp_path, ReportConfig()))
    assert not NETWORK.search(re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", page))
    assert not re.search(r"patient-(alpha|gamma)-\d|alpha-patient-\d|study-\d", page)


def test_what_was_odd_about_a_reference_is_shown_with_the_cases(run, tmp_path):
    assert "warning of pair" not in text_of(report(run[1], tmp_path, ReportConfig()))
    index = read_index(run[1]["pairs"])

    def odd(pair):
        physics = pair.physics.model_copy(update={"parameters": {"header_disagrees": True}})
        return pair.model_copy(update={"physics": physics}) if pair.case_id == "alpha-mri-0" else pair

    write_index(tmp_path / "pairs", index.model_copy(update={"pairs": [odd(pair) for pair in index.pairs]}))
    page = text_of(report(run[1] | {"pairs": tmp_path / "pairs"}, tmp_path / "out", ReportConfig()))
    shown = page[page.index('id="degradation"') : page.index('id="training"')]
    assert "<code>acquisition-matrix-disagrees</code>" in shown
    assert "levels count from what was measured" in shown
    assert shown.count("<code>alpha-mri-0</code>") == 1  # one case, though it has two pairs


def test_a_network_that_began_from_weights_says_so_and_what_that_means(run, tmp_path):
    assert "started from" not in text_of(report(run[1], tmp_path, ReportConfig()))
    folder = tmp_path / "unified"
    shutil.copytree(run[1]["network:unified"], folder)
    start = {"name": "made_up_tiny", "version": "2", "sha256": "f" * 64, "network": "unified", "datasets": []}
    write_json(folder / "training.json", read_json(folder / "training.json") | {"started_from": start})
    page = text_of(report(run[1] | {"network:unified": folder}, tmp_path / "out", ReportConfig()))
    training = page[page.index('id="training"') : page.index('id="pictures"')]
    assert "<td>made_up_tiny 2 (ffffffffffff)</td>" in training
    assert training.count("<td>scratch</td>") == 3
    assert "has seen the other tasks, too" in training


def test_every_stratum_shows_the_degraded_input_and_the_profile(run, tmp_path):
    page = text_of(report(run[1], tmp_path, ReportConfig()))
    measures = page[page.index('id="measures"') : page.index('id="gate"')]
    assert measures.count(">degraded input</td>") == 3 * 2 * 2 + 3 * 2
    assert measures.count("profile <code>robust</code>") >= 3
    assert "The same under profile amir" in measures


def test_an_approved_and_promoted_run_names_the_version_that_serves(run, tmp_path):
    root, parts = run
    shutil.copytree(root / "evaluation" / "pictures", tmp_path / "evaluation" / "pictures")
    make_evaluation(tmp_path / "evaluation")
    gate(tmp_path / "evaluation", POLICY, tmp_path / "decision")
    write_json(
        tmp_path / "version" / "version.json", {"name": "mira_net", "version": 7, "created": "2026-01-02T03:04:05"}
    )
    write_json(tmp_path / "exported" / "parity.json", {"models": {"mira_net": {"largest_difference": 0.0123}}})
    write_json(
        tmp_path / "promotion" / "promotion.json",
        {
            "version": 7,
            "before": 6,
            "changed": True,
            "url": "localhost:8001",
            "models": ["mira_net"],
            "champion": 7,
            "fell_back": "int8 did not stand the test",
        },
    )
    write_json(tmp_path / "restore" / "restore.json", RESTORED)
    more = {name: tmp_path / name for name in ("evaluation", "decision", "version", "exported", "promotion", "restore")}
    page = text_of(report(parts | more, tmp_path / "out", ReportConfig()))
    assert "Approved, and version 7 serves" in page
    assert "before it version 6" in page
    assert "int8 did not stand the test" in page
    assert "largest difference 0.0123" in page
    restored = page[page.index('id="restored"') :]
    assert "<b>+4.56</b>" in restored
    assert "No PET series was restored: no local site offers one" in restored
    assert "This did not happen" not in page


def test_an_empty_run_still_gives_a_page(tmp_path):
    page = text_of(report({}, tmp_path, ReportConfig()))
    assert "No decision was made" in page
    for step in ("ingest", "pair", "train", "evaluate", "gate", "register", "restore"):
        assert f"the {step} step has no result in this run" in page


@pytest.mark.parametrize(
    "body",
    [
        '<img src="https://example.org/a.png">',
        "<script src=//example.org/a.js></script>",
        "<style>p { background: url(https://example.org/a.png) }</style>",
        '<p style="background: url(//example.org/a.png)">',
    ],
)
def test_a_page_that_would_fetch_something_is_refused(tmp_path, body):
    template = tmp_path / "bad.html"
    template.write_text('{% extends "base.html" %}{% block body %}' + body + "{% endblock %}")
    with pytest.raises(ValueError, match="would fetch something from the network"):
        render(template)


def test_a_text_that_names_an_address_is_shown(tmp_path):
    template = tmp_path / "good.html"
    template.write_text('{% extends "base.html" %}{% block body %}<p title="{{ why }}">{{ why }}</p>{% endblock %}')
    assert "api?data=https://x.example/y" in render(template, why='see <a href="api?data=https://x.example/y">')


def test_numbers_and_curves():
    assert number(-0.126, 2, True) == "−0.13"
    assert number(None) == "–"
    shape = curve({"a": [(0, 1.0), (10, 2.0)], "b": []})
    assert len(shape["lines"]) == 1
    first, last = (tuple(map(float, p.split(","))) for p in shape["lines"][0]["points"].split())
    assert first[0] < last[0]
    assert first[1] > last[1]  # up is a larger value
    assert curve({})["lines"] == []


def test_command_line_with_some_parts(run, tmp_path):
    root, _ = run
    command = [sys.executable, "-m", "components.report", "--decision", root / "decision", "--out", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 0, done.stderr
    assert "gain-local" in text_of(tmp_path / "report.html")
