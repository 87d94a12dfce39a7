import shutil
import zlib
from types import SimpleNamespace

import pytest

from components.champion.step import ChampionConfig, champion
from components.gate.step import gate
from components.register.step import RegisterConfig, register
from mira.errors import DataRejected, GateFailed
from mira.storage import hash_file, read_json, write_json
from tests.components.made_up import make_evaluation, make_network, make_pairs
from tests.components.test_gate import POLICY


@pytest.fixture(scope="module")
def tracking(tmp_path_factory):
    """A real MLflow database with an experiment; migrating it takes seconds, so there is one for the module."""
    import mlflow

    root = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{root / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    experiment = client.create_experiment("mira-net", artifact_location=(root / "artifacts").as_uri())
    return SimpleNamespace(uri=uri, client=client, experiment=experiment)


@pytest.fixture
def candidate(tmp_path, tracking, request):
    """Networks, evaluation, decision and pairs of an approved candidate, with weights of its own."""
    return make_candidate(tmp_path, tracking, seed=zlib.crc32(request.node.name.encode()) % 10_000)


def make_candidate(root, tracking, seed):
    make_pairs(root / "pairs", patients=1)
    runs = {n: tracking.client.create_run(tracking.experiment).info.run_id for n in ("unified", "ct-denoising")}
    networks = [make_network(root / n, n, seed=seed, strength=0.1, run_id=runs[n]) for n in runs]
    make_evaluation(root / "evaluation")
    metrics = read_json(root / "evaluation" / "metrics.json")
    metrics["data_version"] = "0123456789abcdef"
    for network, folder in zip(runs, networks, strict=True):
        metrics["networks"][network]["weights_sha256"] = hash_file(folder / "model.safetensors")
    write_json(root / "evaluation" / "metrics.json", metrics)
    gate(root / "evaluation", POLICY, root / "decision")
    parts = {"networks": networks, "evaluation": root / "evaluation", "decision": root / "decision"}
    config = RegisterConfig(tracking_uri=tracking.uri, code_version="0.1.0+abc")
    return SimpleNamespace(
        root=root, runs=runs, call=parts | {"pairs": root / "pairs", "out": root / "version", "config": config}
    )


def test_an_approved_candidate_gets_a_version_with_its_whole_lineage(candidate, tracking):
    summary = register(**candidate.call)
    version = read_json(candidate.root / "version" / "version.json")
    stored = tracking.client.get_model_version_by_alias("mira_net", "challenger")
    assert summary.created
    assert summary.version == version["version"] == int(stored.version)
    assert stored.run_id == version["run_id"] == candidate.runs["unified"]
    assert version["networks"]["ct-denoising"]["run_id"] == candidate.runs["ct-denoising"]
    assert (
        version["decision_sha256"]
        == stored.tags["decision_sha256"]
        == hash_file(candidate.root / "decision" / "decision.json")
    )
    assert stored.tags["data_version"] == "0123456789abcdef"
    assert stored.tags["code_version"] == "0.1.0+abc"
    assert stored.tags["gain_db.ct-denoising.test"] == "2.000"
    names = {a.path for a in tracking.client.list_artifacts(stored.run_id, "release")}
    assert names == {f"release/{n}" for n in ("decision.json", "metrics.json", "model_card.md", "version.json")}


def test_a_network_that_was_not_evaluated_gets_no_version(candidate):
    folder = candidate.root / "ct-denoising"
    make_network(folder, "ct-denoising", seed=10_001, strength=0.2, run_id=candidate.runs["ct-denoising"])
    with pytest.raises(DataRejected, match="ct-denoising is not the one that was evaluated"):
        register(**candidate.call)


def test_a_network_that_the_gate_left_out_is_named(candidate):
    metrics = read_json(candidate.root / "evaluation" / "metrics.json")
    for row in metrics["rows"]:
        if row["network"] == "ct-denoising":
            row["gain_db"] = -1.0
    write_json(candidate.root / "evaluation" / "metrics.json", metrics)
    gate(candidate.root / "evaluation", POLICY, candidate.root / "decision")
    register(**candidate.call)
    version = read_json(candidate.root / "version" / "version.json")
    assert version["left_out"] == {"ct-denoising": ["gain-test", "gain-local"]}
    card = (candidate.root / "version" / "model_card.md").read_text()
    assert "| ct-denoising | not exported: alone, it breaks gain-test, gain-local" in card


def test_a_run_with_the_checkpoint_of_other_weights_gives_no_version(candidate, tracking):
    write_json(candidate.root / "other" / "training.json", {"weights_sha256": "0" * 64})
    other = str(candidate.root / "other" / "training.json")
    tracking.client.log_artifact(candidate.runs["unified"], other, "checkpoint")
    with pytest.raises(DataRejected, match="holds other weights"):
        register(**candidate.call)


def test_the_model_card_says_what_it_is_for_and_shows_the_input_beside_every_figure(candidate):
    register(**candidate.call)
    card = (candidate.root / "version" / "model_card.md").read_text()
    assert "Research. Not a medical device" in card
    assert "**simulated** degradation" in card
    assert "| CT denoising | local | 12 | 25.00 |" in card
    assert "| gain-local | pass | 2 dB | > 0 dB |" in card


def test_what_a_network_began_from_is_part_of_the_lineage(candidate, tracking):
    start = {"name": "made_up_tiny", "version": "2", "sha256": "f" * 64, "network": "unified", "datasets": ["Phantoms"]}
    for name in ("unified", "ct-denoising"):
        path = candidate.root / name / "training.json"
        write_json(path, read_json(path) | {"started_from": start})
    register(**candidate.call)
    card = (candidate.root / "version" / "model_card.md").read_text()
    version = read_json(candidate.root / "version" / "version.json")
    stored = tracking.client.get_model_version_by_alias("mira_net", "challenger")
    assert version["networks"]["ct-denoising"]["started_from"] == start
    assert (stored.tags["started_from"], stored.tags["started_from_sha256"]) == ("made_up_tiny 2", "f" * 64)
    assert "Started from made_up_tiny 2 (network `unified`" in card
    assert "trained on Phantoms: ct-denoising, unified. Steps and patches of this version are those after it." in card
    assert f", started from made_up_tiny 2 `{'f' * 64}` |" in card


def test_the_card_has_licence_and_attribution_of_what_it_began_from(candidate, tracking):
    start = {"name": "made_up_tiny", "version": "2", "sha256": "f" * 64, "network": "unified", "datasets": ["Phantoms"]}
    for name in ("unified", "ct-denoising"):
        path = candidate.root / name / "training.json"
        write_json(path, read_json(path) | {"started_from": start})
        notice = "### made_up_tiny 2\n\nLicence: CC BY\n\n| Phantoms | CC BY 4.0 | A. Maker, 2020 |\n"
        (candidate.root / name / "STARTED_FROM.md").write_text(notice)
    register(**candidate.call)
    card = (candidate.root / "version" / "model_card.md").read_text()
    assert card.count(f"## Attribution\n\n{notice}\n## Measures") == 1
    kept = {item.path for item in tracking.client.list_artifacts(candidate.runs["unified"], "checkpoint")}
    assert "checkpoint/STARTED_FROM.md" in kept

    for name in ("unified", "ct-denoising"):
        (candidate.root / name / "STARTED_FROM.md").unlink()  # trained before it was kept
    register(**candidate.call)
    assert "came without licence or attribution" in (candidate.root / "version" / "model_card.md").read_text()


@pytest.mark.parametrize(("unknown", "checked"), [([], True), (["made_up_tiny 2"], False), (None, False)])
def test_the_card_says_whether_the_patients_of_the_start_are_known(candidate, unknown, checked):
    start = {"name": "made_up_tiny", "version": "2", "sha256": "f" * 64, "network": "unified", "datasets": ["Phantoms"]}
    path = candidate.root / "unified" / "training.json"
    write_json(path, read_json(path) | {"started_from": start})
    metrics = read_json(candidate.root / "evaluation" / "metrics.json")
    metrics["networks"]["unified"]["patients_unknown"] = unknown
    write_json(candidate.root / "evaluation" / "metrics.json", metrics)
    gate(candidate.root / "evaluation", POLICY, candidate.root / "decision")
    register(**candidate.call)
    card = (candidate.root / "version" / "model_card.md").read_text()
    assert ("No test or local patient of the table was among its train and validation patients." in card) == checked
    assert ("cannot be checked by pseudonym" in card) != checked


def test_a_version_from_scratch_names_no_start(candidate, tracking):
    register(**candidate.call)
    card = (candidate.root / "version" / "model_card.md").read_text()
    assert "tarted from" not in card
    assert "## Attribution" not in card
    stored = tracking.client.get_model_version_by_alias("mira_net", "challenger")
    assert "started_from" not in stored.tags


def test_registering_twice_gives_the_same_version_and_other_weights_another(candidate, tracking, tmp_path):
    first = register(**candidate.call)
    again = register(**candidate.call)
    assert (again.version, again.created) == (first.version, False)
    other = make_candidate(tmp_path / "other", tracking, seed=77_777)
    assert register(**other.call).version == first.version + 1


def test_champion_is_fetched_unless_it_is_the_candidate_or_there_is_none(candidate, tracking, tmp_path):
    config = ChampionConfig(tracking_uri=tracking.uri)
    unified = candidate.root / "unified"
    assert champion(unified, tmp_path / "none", config).version == ""
    version = register(**candidate.call).version
    assert champion(unified, tmp_path / "none", config).reason == "no champion serves yet"
    tracking.client.set_registered_model_alias("mira_net", "champion", str(version))
    try:
        same = champion(unified, tmp_path / "same", config)
        assert same.version == ""
        assert same.reason == f"the candidate is the champion, version {version}"
        newer = make_network(tmp_path / "newer", "unified", seed=5, strength=0.2)
        assert champion(newer, tmp_path / "fetched", config).version == str(version)
        assert hash_file(tmp_path / "fetched" / "model.safetensors") == hash_file(unified / "model.safetensors")
        assert read_json(tmp_path / "fetched" / "config.json")["network"] == "unified"
        tracking.client.set_model_version_tag("mira_net", str(version), "weights_sha256", "0" * 64)
        with pytest.raises(DataRejected, match="are not the weights that were registered"):
            champion(newer, tmp_path / "changed", config)
    finally:
        tracking.client.delete_registered_model_alias("mira_net", "champion")


def test_a_refused_candidate_gets_no_version(candidate, tracking):
    write_json(candidate.root / "decision" / "decision.json", {"approved": False, "failed": ["gain-local"]})
    before = len(tracking.client.search_model_versions("name='mira_net'"))
    with pytest.raises(GateFailed, match="refused by: gain-local"):
        register(**candidate.call)
    assert len(tracking.client.search_model_versions("name='mira_net'")) == before
    assert not (candidate.root / "version").exists()


def break_run_id(root):
    training = read_json(root / "unified" / "training.json")
    write_json(root / "unified" / "training.json", training | {"run_id": ""})


def break_run(root):
    training = read_json(root / "ct-denoising" / "training.json")
    write_json(root / "ct-denoising" / "training.json", training | {"run_id": "0" * 32})


def break_weights(root):
    make_network(root / "elsewhere", "unified", seed=1, strength=0.5)
    (root / "elsewhere" / "model.safetensors").rename(root / "unified" / "model.safetensors")


def break_evaluation(root):
    metrics = read_json(root / "evaluation" / "metrics.json")
    write_json(root / "evaluation" / "metrics.json", metrics | {"skipped_slices": 1})


def break_data(root):
    index = read_json(root / "pairs" / "pairs.json")
    write_json(root / "pairs" / "pairs.json", index | {"data_version": "other"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_run_id, "names no MLflow run"),
        (break_run, "MLflow has no run 0000"),
        (break_weights, "not those that its training.json names"),
        (break_evaluation, "made on another evaluation"),
        (break_data, "trained on data version 0123456789abcdef, but the pairs are other"),
    ],
)
def test_a_broken_lineage_gets_no_version(candidate, damage, message):
    damage(candidate.root)
    with pytest.raises(DataRejected, match=message):
        register(**candidate.call)


def test_no_code_version_is_no_lineage(candidate, tracking):
    with pytest.raises(DataRejected, match="Set `code_version`"):
        register(**candidate.call | {"config": RegisterConfig(tracking_uri=tracking.uri)})


def test_a_run_that_names_no_code_version_gets_that_of_its_image(candidate):
    from components.register.component import register as component
    from components.train.environment import code_version

    for folder in candidate.call["networks"]:
        shutil.copytree(folder, candidate.root / "networks" / folder.name)
    names = ("networks", "evaluation", "decision", "pairs", "version", "model_card.md")
    artifacts = {name.removesuffix(".md"): SimpleNamespace(path=str(candidate.root / name)) for name in names}
    component.python_func(tracking_uri=candidate.call["config"].tracking_uri, code_version="", **artifacts)
    assert read_json(candidate.root / "version" / "version.json")["code_version"] == code_version()


def test_the_training_parameters_are_part_of_the_lineage(candidate, tracking, tmp_path):
    first = register(**candidate.call)
    tracking.client.log_param(candidate.runs["ct-denoising"], "learning_rate", 0.01)
    assert register(**candidate.call).version == first.version + 1
