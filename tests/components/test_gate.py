import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.evaluate.results import Network
from components.gate.policy import Threshold, load_policy, policy_hash
from components.gate.step import gate
from mira.errors import ConfigurationError, DataRejected
from mira.storage import hash_file, read_json, write_json
from mira.tasks import Task
from tests.components.made_up import make_evaluation

POLICY = (Path(__file__).parents[2] / "pipelines" / "policy.yaml").read_text(encoding="utf-8")


def decide(tmp_path, policy=POLICY, champion=(), **options):
    """Decide about a made-up candidate, beside a champion of these tasks when there are any."""
    evaluation = make_evaluation(tmp_path / "evaluation", **options)
    if champion:
        networks = evaluation.networks | {"champion": Network(tasks=list(champion), weights_sha256="c" * 64)}
        evaluation = evaluation.model_copy(update={"networks": networks})
        write_json(tmp_path / "evaluation" / "metrics.json", evaluation.model_dump(mode="json"))
    summary = gate(tmp_path / "evaluation", policy, tmp_path / "decision")
    decision = read_json(tmp_path / "decision" / "decision.json")
    return summary, {rule["id"]: rule for rule in decision["rules"]}, decision


def edit(network="unified", **match):
    """A change of `make_evaluation`: set fields of the rows that match."""
    values = match.pop("to")

    def change(rows, comparisons):
        for i, row in enumerate(rows):
            if row.network == network and all(getattr(row, k) == v for k, v in match.items()):
                rows[i] = row.model_copy(update=values)

    return change


def test_a_good_candidate_is_approved_and_the_decision_names_what_it_rests_on(tmp_path):
    summary, rules, decision = decide(tmp_path)
    assert summary.approved
    assert summary.failed == summary.warned == []
    assert summary.not_applicable == ["not-worse-than-champion", "parity"]
    assert rules["gain-test"]["value"] == 2.0
    assert decision["policy_sha256"] == policy_hash(POLICY)
    assert decision["evaluation_sha256"] == hash_file(tmp_path / "evaluation" / "metrics.json")
    assert decision["candidate_weights_sha256"] == "a" * 64
    assert decision["data_version"] == "d1"


def test_the_worst_stratum_decides_not_the_mean(tmp_path):
    change = edit(task=Task.CT_DENOISING, site="beta", level=0.1, to={"gain_db": -0.01})
    summary, rules, _ = decide(tmp_path, change=change)
    assert summary.failed == ["gain-test"]
    assert rules["gain-test"]["stratum"] == {
        "task": "ct-denoising",
        "split": "test",
        "site": "beta",
        "vendor": "Made Up Medical",
        "level": 0.1,
    }
    assert [f["status"] for f in rules["gain-test"]["findings"]].count("fail") == 1


def test_no_gain_is_not_enough(tmp_path):
    summary, _, _ = decide(tmp_path, local_gain=0.0)
    assert summary.failed == ["gain-local", "local-margin"]


def test_a_local_site_far_behind_the_test_patients_is_refused(tmp_path):
    summary, rules, _ = decide(tmp_path, gain=5.0, local_gain=1.0)
    assert summary.failed == ["local-margin"]
    assert rules["local-margin"]["value"] == pytest.approx(1.0 - 5.5)  # the mean of both test sites is 5.5 dB


def test_a_bias_counts_in_both_directions(tmp_path):
    change = edit(task=Task.CT_DENOISING, site="gamma", to={"clinical": {"hu_mean_bias": -7.0}})
    summary, rules, _ = decide(tmp_path, change=change)
    assert summary.failed == ["hu-bias"]
    assert rules["hu-bias"]["value"] == -7.0
    assert rules["hu-bias"]["threshold"] == "within ±5"


def test_warn_rules_do_not_refuse(tmp_path):
    change = edit(task=Task.PET_SYNTHESIS, to={"clinical": {"suv_mean_bias": 0.0, "suv_max_bias": -30.0}})
    summary, _, _ = decide(tmp_path, change=change)
    assert summary.approved
    assert summary.warned == ["suv-max-bias"]


def against(patients, lower, other="ct-denoising", upper=None):
    """A comparison of CT on test patients, in place of the made-up one with the same network."""

    def change(rows, comparisons):
        figures = {"patients": patients, "difference_db": lower + 0.1, "lower_db": lower, "other": other}
        figures["upper_db"] = upper
        comparisons.append(comparisons[0].model_copy(update=figures))
        if other == comparisons[0].other:
            del comparisons[0]

    return change


def test_few_patients_make_non_inferiority_undecidable_and_many_decide(tmp_path):
    summary, rules, _ = decide(tmp_path, change=against(3, -0.5))
    assert summary.approved
    assert rules["unified-vs-single-test"]["status"] == "not decidable"
    assert "unified-vs-single-test" in summary.warned
    assert "Fewer than 10 patients" in rules["unified-vs-single-test"]["note"]
    summary, rules, _ = decide(tmp_path, change=against(10, -0.5))
    assert summary.failed == ["unified-vs-single-test"]
    assert rules["unified-vs-single-local"]["status"] == "pass"


@pytest.mark.parametrize(
    ("patients", "upper", "status"),
    [
        (9, -2.8, "fail"),  # even the best that the interval allows is worse than the threshold
        (9, -0.1, "not decidable"),
        (9, None, "not decidable"),  # an evaluation from before there was an upper bound
        (4, -2.8, "fail"),
        (3, -2.8, "not decidable"),  # 12 % of the bounds of three patients are on the wrong side
        (10, -0.1, "fail"),  # enough patients have to prove it
    ],
)
def test_few_patients_can_disprove_what_they_cannot_prove(tmp_path, patients, upper, status):
    summary, rules, _ = decide(tmp_path, change=against(patients, -3.0, upper=upper))
    assert rules["unified-vs-single-test"]["status"] == status
    assert summary.failed == (["unified-vs-single-test"] if status == "fail" else [])
    told = "even the better end of its 95 % interval misses the threshold" in rules["unified-vs-single-test"]["note"]
    assert told == (status == "fail" and patients < 10)


def test_an_interval_is_outside_when_none_of_its_values_keeps_the_bound():
    assert Threshold(at_least=-0.15).excludes(-3, -2.8)
    assert not Threshold(at_least=-0.15).excludes(-3, -0.15)
    assert Threshold(above=0).excludes(-1, 0)
    assert Threshold(at_most=1).excludes(1.1, 2)
    assert not Threshold(at_most=1).excludes(1, 2)
    assert Threshold(within=5).excludes(-7, -6)
    assert not Threshold(within=5).excludes(-6, 6)


def test_worse_than_the_champion_is_refused(tmp_path):
    summary, rules, _ = decide(tmp_path, change=against(4, -0.4, other="champion"))
    assert summary.failed == ["not-worse-than-champion"]
    assert rules["not-worse-than-champion"]["value"] == pytest.approx(-0.3)


def as_good_as_the_champion(rows, comparisons):
    """Comparisons of every task and set with the champion, none of them worse."""
    comparisons += [c.model_copy(update={"other": "champion"}) for c in comparisons]


def test_a_candidate_that_loses_a_task_of_the_champion_is_refused(tmp_path):
    """Its own tasks may be perfect: the endpoint would refuse the other modalities from then on."""
    options = {"champion": tuple(Task), "change": as_good_as_the_champion}
    summary, rules, _ = decide(tmp_path, tasks=(Task.CT_DENOISING,), **options)
    assert summary.failed == ["champion-tasks"]
    assert rules["champion-tasks"]["severity"] == "must"
    note = "The candidate was not trained for pet-synthesis, mri-super-resolution, which the champion serves."
    assert note in rules["champion-tasks"]["note"]
    assert f"- champion-tasks: {note}" in (tmp_path / "decision" / "decision.md").read_text()

    summary, rules, _ = decide(tmp_path, **options)
    assert summary.approved
    assert rules["champion-tasks"]["status"] == "pass"
    summary, _, _ = decide(tmp_path, champion=(Task.CT_DENOISING,), change=as_good_as_the_champion)
    assert summary.approved  # a task more is no harm


def test_a_network_whose_patients_nobody_wrote_down_is_named(tmp_path):
    def known(folder, unknown):
        metrics = read_json(folder / "metrics.json")
        for name, network in metrics["networks"].items():
            network["patients_unknown"] = unknown if name == "unified" else []
        write_json(folder / "metrics.json", metrics)
        gate(folder, POLICY, tmp_path / "decision")
        return read_json(tmp_path / "decision" / "decision.json")["patients_unknown"]

    _, _, decision = decide(tmp_path, champion=tuple(Task), change=as_good_as_the_champion)
    assert decision["patients_unknown"]["champion"] == ["champion"]  # an evaluation from before there was the field
    assert known(tmp_path / "evaluation", ["made_up_tiny 2"]) == {"unified": ["made_up_tiny 2"]}
    note = "are new to the network unified: nobody wrote down the patients that made_up_tiny 2 was trained on."
    assert note in (tmp_path / "decision" / "decision.md").read_text()
    assert known(tmp_path / "evaluation", []) == {}
    assert "nobody wrote down" not in (tmp_path / "decision" / "decision.md").read_text()


def test_a_task_without_data_is_stated_and_one_without_test_patients_refused(tmp_path):
    summary, rules, decision = decide(tmp_path, tasks=(Task.CT_DENOISING,))
    assert summary.approved
    assert rules["gain-test"]["not_covered"] == ["pet-synthesis, test", "mri-super-resolution, test"]
    assert rules["suv-mean-bias"]["status"] == "not applicable"
    assert decision["coverage"] == {"ct-denoising": {"test": 24, "local": 12}}

    def no_test_pet(rows, comparisons):
        rows[:] = [r for r in rows if not (r.task is Task.PET_SYNTHESIS and r.split == "test")]

    summary, rules, _ = decide(tmp_path, change=no_test_pet)
    assert summary.failed == ["test-patients"]
    assert rules["test-patients"]["stratum"] == {"task": "pet-synthesis", "split": "test"}


def test_without_a_local_set_nothing_is_released(tmp_path):
    def no_local(rows, comparisons):
        rows[:] = [r for r in rows if r.split == "test"]

    summary, rules, _ = decide(tmp_path, change=no_local)
    assert summary.failed == ["local-patients"]
    assert rules["gain-local"]["status"] == "not applicable"
    assert rules["local-tasks"]["status"] == "warn"


def test_a_figure_that_a_measured_task_lacks_refuses_the_candidate(tmp_path):
    """Whatever made it disappear: what was not measured does not hold."""
    nothing = edit(task=Task.CT_DENOISING, to={"clinical": {}, "clinical_worst": {}})
    summary, rules, _ = decide(tmp_path, change=nothing)
    assert summary.failed == ["hu-bias"]
    assert "lacks this figure for ct-denoising" in rules["hu-bias"]["note"]
    assert rules["hu-bias-patient"]["status"] == "not applicable"  # a rule that only tells

    summary, rules, _ = decide(tmp_path, change=lambda rows, comparisons: comparisons.clear())
    assert summary.failed == ["unified-vs-single-test", "unified-vs-single-local"]


@pytest.mark.parametrize("split", ["test", "local"])
def test_a_figure_that_a_measured_set_lacks_refuses_the_candidate(tmp_path, split):
    """The other set has it, which shows nothing of this one."""
    summary, rules, _ = decide(tmp_path, change=edit(task=Task.CT_DENOISING, split=split, to={"clinical": {}}))
    assert summary.failed == ["hu-bias"]
    assert f"lacks this figure for ct-denoising, {split}: nothing shows" in rules["hu-bias"]["note"]

    def uncompared(rows, comparisons):
        comparisons[:] = [c for c in comparisons if (c.task, c.split) != (Task.PET_SYNTHESIS, split)]

    summary, _, _ = decide(tmp_path, change=uncompared)
    assert summary.failed == [f"unified-vs-single-{split}"]

    def champion_uncompared(rows, comparisons):
        as_good_as_the_champion(rows, comparisons)
        comparisons[:] = [c for c in comparisons if (c.other, c.split) != ("champion", split)]

    summary, _, _ = decide(tmp_path, champion=tuple(Task), change=champion_uncompared)
    assert summary.failed == ["not-worse-than-champion"]


def test_a_site_without_the_figure_is_named(tmp_path):
    change = edit(task=Task.CT_DENOISING, site="beta", to={"clinical": {}})
    summary, rules, _ = decide(tmp_path, change=change)
    assert summary.approved
    assert rules["hu-bias"]["not_covered"] == ["ct-denoising, test, beta"]
    assert "- hu-bias: no data for ct-denoising, test, beta." in (tmp_path / "decision" / "decision.md").read_text()


def test_one_patient_whose_bias_the_mean_hides_is_told(tmp_path):
    change = edit(task=Task.CT_DENOISING, site="alpha", to={"clinical_worst": {"hu_mean_bias": -20.0}})
    summary, rules, _ = decide(tmp_path, change=change)
    assert (summary.approved, summary.warned) == (True, ["hu-bias-patient"])
    assert rules["hu-bias-patient"]["value"] == -20.0


@pytest.mark.parametrize(
    ("site", "bad", "broken"),
    [
        ("gamma", {"gain_db": -20.0}, ["gain-local", "local-margin"]),
        ("gamma", {"clinical": {"hu_mean_bias": 300.0}}, ["hu-bias"]),
        ("gamma", {"clinical": {}}, ["hu-bias"]),  # no other local site has the figure
        ("beta", {"clinical": {}}, []),  # the other test site has it
    ],
)
def test_a_single_task_network_that_breaks_a_rule_is_left_out(tmp_path, site, bad, broken):
    """It would be served to whom asks for it; the unified network is judged as before."""
    change = edit("ct-denoising", site=site, to=bad)
    summary, _, decision = decide(tmp_path, change=change)
    assert summary.approved
    assert decision["left_out"] == ({"ct-denoising": broken} if broken else {})
    text = (tmp_path / "decision" / "decision.md").read_text()
    assert ("ct-denoising is not exported: alone, it breaks" in text) == bool(broken)


def test_a_single_task_network_that_was_not_measured_is_left_out(tmp_path):
    def unmeasured(rows, comparisons):
        rows[:] = [row for row in rows if row.network != "pet-synthesis"]

    _, _, decision = decide(tmp_path, change=unmeasured)
    assert decision["left_out"] == {"pet-synthesis": ["evidence"]}


def test_an_evaluation_with_no_rows_fails(tmp_path):
    summary, rules, _ = decide(tmp_path, tasks=())
    assert not summary.approved
    assert rules["evidence"]["status"] == "fail"


def test_the_markdown_shows_every_rule_with_figure_and_threshold(tmp_path):
    summary, rules, _ = decide(tmp_path, gain=-1.0)
    text = (tmp_path / "decision" / "decision.md").read_text()
    assert "## Gate: refused: gain-test" in text
    assert "| gain-test | **fail** | -1 dB | > 0 dB | " in text
    assert all(f"| {name} |" in text for name in rules)
    assert not summary.approved


def test_figures_of_another_profile_are_not_judged(tmp_path):
    with pytest.raises(DataRejected, match="speaks of the metric profile 'amir', but the evaluation has robust"):
        decide(tmp_path, policy=POLICY.replace("profile: robust", "profile: amir"))


def test_missing_or_foreign_evaluation_is_rejected(tmp_path):
    with pytest.raises(DataRejected, match="Run the evaluate step first"):
        gate(tmp_path, POLICY, tmp_path / "out")
    write_json(tmp_path / "metrics.json", {"rows": []})
    with pytest.raises(DataRejected, match="Field required"):
        gate(tmp_path, POLICY, tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "severity: must\n\n    - id: local-patients",
            "severity: should\n\n    - id: local-patients",
            r"gates.0.severity: Input should be 'must' or 'warn'",
        ),
        ("threshold: {above: 0.0}", "threshold: {above: 0.0, at_least: 0}", "give exactly one of"),
        ("threshold: {above: 0.0}", "threshold: {above: null}", "threshold: .*give exactly one of: above, .*a number"),
        ("threshold: {above: 0.0}", "threshold: {within: .inf}", "threshold.within: Input should be a finite number"),
        ("threshold: {above: 0.0}", "threshold: {at_least: .nan}", "threshold.at_least: .*finite number"),
        ("threshold: {above: 0.0}", "threshold: {at_most: -.inf}", "threshold.at_most: .*finite number"),
        ("figure: gain_db", "figure: gain", "figure: Input should be"),
        ("measure: hu_mean_bias", "", "`measure` names the figure of `clinical`"),
        ("id: gain-local", "id: gain-test", "appear twice: gain-test"),
        ("controlled_by: [modality-recognised]", "controlled_by: [magic]", "do not exist: magic"),
        ("severity: must", "severity: warn", "approves everything"),
        ("version: 1", "version: [", "not valid YAML"),
    ],
)
def test_a_wrong_policy_is_a_clear_error(old, new, message):
    assert old in POLICY
    with pytest.raises(ConfigurationError, match=message):
        load_policy(POLICY.replace(old, new))


def test_thresholds():
    assert not Threshold(above=0).met(0)
    assert Threshold(at_least=0).met(0)
    assert Threshold(at_most=1).met(1)
    assert not Threshold(at_most=1).met(1.01)
    assert Threshold(within=5).met(-5)
    assert not Threshold(within=5).met(-5.1)


def test_every_risk_of_the_policy_says_what_controls_it():
    policy = load_policy(POLICY)
    assert all(impact.controlled_by for impact in policy.impact)
    assert all(gate.source for gate in policy.protocol.gates)


def test_command_line_exit_code_of_a_refusal(tmp_path):
    make_evaluation(tmp_path / "evaluation", gain=-1.0)
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(yaml.safe_load(POLICY)))
    command = [sys.executable, "-m", "components.gate", "--evaluation", tmp_path / "evaluation"]
    command += ["--policy", tmp_path / "policy.yaml", "--out", tmp_path / "out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == 4
    assert "refused by: gain-test" in done.stderr
    assert not read_json(tmp_path / "out" / "decision.json")["approved"]
