"""Promotion without a server: what is checked first, switching and undoing on disk, the registry."""

import json
import shutil

import pytest

from components.promote import account, audit, binary, processes, registry, remote, repository, server, signing, status
from components.promote import switch as switching
from components.promote.exported import read_release
from components.promote.paths import ServingPaths
from components.promote.step import PromoteConfig, promote
from mira.errors import ConfigurationError, GateFailed, ServingFailed
from mira.storage import hash_file, make_secret, write_json
from mira.tasks import Modality
from tests.triton.tiny_network import make_release, sign, tiny_network


@pytest.fixture
def config(tmp_path):
    return PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)


# what a promotion is based on


def test_release_is_read_with_its_hashes_and_modalities(tmp_path):
    release = read_release(*make_release(tmp_path, 7, models=("mira_net", "mira_net_pet")))
    assert release.version == 7
    main_network, pet = release.models
    assert main_network.modalities == list(Modality)
    assert pet.modalities == [Modality.PET]
    assert (pet.name, pet.instruction_size) == ("mira_net_pet", 4)
    assert set(release.artifacts) == {"mira_net", "mira_net_pet"}


def test_files_may_be_given_instead_of_their_folders(tmp_path):
    exported, version, decision = make_release(tmp_path, 7)
    assert read_release(exported, version / "version.json", decision / "decision.json").version == 7


def test_without_the_gates_approval_nothing_is_promoted(tmp_path, config):
    files = make_release(tmp_path, 1, approved=False)
    with pytest.raises(GateFailed, match="did not approve"):
        promote(*files, tmp_path / "out", config)
    assert not config.models.exists()


def test_a_decision_of_another_run_does_not_count(tmp_path):
    exported, version, decision = make_release(tmp_path, 1)
    write_json(decision / "decision.json", {"approved": True, "of": 2})
    with pytest.raises(GateFailed, match="hash differs"):
        read_release(exported, version, decision)


@pytest.mark.parametrize("spoil", ["weights", "gone", "version", "main", "metadata"])
def test_networks_that_are_not_the_versions_are_refused(tmp_path, spoil):
    exported, version, decision = make_release(tmp_path, 1, models=("mira_net", "mira_net_ct"))
    network = exported / "mira_net_ct" / "model.onnx"
    if spoil == "weights":
        tiny_network(network, gain=0.9)
    elif spoil == "gone":
        network.unlink()
    elif spoil == "version":
        metadata = json.loads(network.with_name("metadata.json").read_text())
        write_json(network.with_name("metadata.json"), metadata | {"version": 2})
    elif spoil == "main":
        (exported / "mira_net").rename(exported / "other")
    else:
        network.with_name("metadata.json").unlink()
    with pytest.raises(ServingFailed, match=r"[Ee]xport"):
        read_release(exported, version, decision)


def test_a_network_that_the_version_has_and_the_export_lacks_stops_the_promotion(tmp_path):
    exported, version, decision = make_release(tmp_path, 1, models=("mira_net", "mira_net_ct"))
    document = json.loads((version / "version.json").read_text())
    networks = {"unified": {}, "ct-denoising": {}, "pet-synthesis": {}}
    write_json(version / "version.json", document | {"networks": networks})
    with pytest.raises(ServingFailed, match=r"lacks mira_net_pet of version 1.*Run the export step again"):
        read_release(exported, version, decision)
    write_json(version / "version.json", document | {"networks": networks, "left_out": {"pet-synthesis": ["suv"]}})
    assert set(read_release(exported, version, decision).artifacts) == {"mira_net", "mira_net_ct"}
    shutil.rmtree(exported / "mira_net_ct")
    with pytest.raises(ServingFailed, match="lacks mira_net_ct"):
        read_release(exported, version, decision)


def test_nothing_of_an_export_is_read_before_its_signature(tmp_path):
    exported, version, decision = make_release(tmp_path, 1)
    described = exported / "mira_net" / "metadata.json"
    known = described.read_bytes()
    for spoilt in (b"[" * 200_000, b"\xff{", b"[1]", known.replace(b'"instruction_dim": 4', b'"instruction_dim": 5')):
        described.write_bytes(spoilt)
        with pytest.raises(ServingFailed, match="was signed for something else: metadata_sha256 differ"):
            read_release(exported, version, decision)
    described.write_bytes(b"[" * 200_000)
    sign(tmp_path, "mira_net")
    with pytest.raises(ServingFailed, match="cannot be read as JSON"):
        read_release(exported, version, decision)
    for text, words in ((b"[1]", "no JSON object"), (b"{", "cannot be read"), (b"[" * 200_000, "cannot be read")):
        (version / "version.json").write_bytes(text)
        with pytest.raises(ServingFailed, match=words):
            read_release(exported, version, decision)
    write_json(version / "version.json", {"decision_sha256": hash_file(decision / "decision.json")})
    with pytest.raises(ServingFailed, match="names no version"):
        read_release(exported, version, decision)


# where it comes from


def test_exported_networks_are_fetched_from_an_artifact_store_or_refused(tmp_path, config):
    pytest.importorskip("mlflow")
    exported, _, _ = make_release(tmp_path, 1)
    assert remote.local_copy(config, exported, "off") == exported
    copy = remote.local_copy(config, exported.as_uri(), "off")
    assert copy.is_relative_to(config.state)
    assert tree(copy) == tree(exported)
    with pytest.raises(ServingFailed, match="artifact store"):
        remote.local_copy(config, (tmp_path / "nowhere").as_uri(), "off")


# what may be served at all


def test_signature_binds_a_network_to_its_version_and_decision(tmp_path, monkeypatch):
    exported, version, decision = make_release(tmp_path, 1)
    read_release(exported, version, decision)
    registered = json.loads((version / "version.json").read_text())
    for change in ({"version": 2}, {"decision_sha256": "0" * 64}, {"data_version": "other"}):
        with pytest.raises(ServingFailed, match="signed for something else"):
            signing.check_export(exported / "mira_net", registered | change)
    signature = exported / "mira_net" / signing.SIGNATURE
    document = json.loads(signature.read_text())
    write_json(signature, document | {"statement": document["statement"] | {"version": 9}})
    with pytest.raises(ServingFailed, match="changed after it was signed"):
        read_release(exported, version, decision)
    for rubbish in (b"[" * 200_000, b"[]", b"\xff"):
        signature.write_bytes(rubbish)
        with pytest.raises(ServingFailed, match="is no signature"):
            read_release(exported, version, decision)
    write_json(signature, document)
    monkeypatch.setenv(signing.KEY_VARIABLE, "another key that is long enough for a key")
    with pytest.raises(ServingFailed, match="another key"):
        read_release(exported, version, decision)
    signature.unlink()
    with pytest.raises(ServingFailed, match=r"signature\.json is missing"):
        read_release(exported, version, decision)


def test_signing_key_is_made_once_for_its_owner_alone(tmp_path, monkeypatch):
    monkeypatch.delenv(signing.KEY_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path))
    first = signing.load_signer().key_id
    path = tmp_path / ".config" / "mira" / "signing.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert signing.load_signer().key_id == first
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        signing.load_signer()
    named = tmp_path / "mounted" / "signing.kye"
    monkeypatch.setenv(signing.KEY_FILE_VARIABLE, str(named))
    with pytest.raises(ConfigurationError, match=r"signing\.kye does not exist"):
        signing.load_signer()  # a new key here would make all that is signed look forged
    assert not named.parent.exists()
    make_secret(named)
    assert signing.load_signer().key_id != first
    monkeypatch.setenv(signing.KEY_VARIABLE, "short")
    with pytest.raises(ConfigurationError, match="shorter"):
        signing.load_signer()


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: (folder / "model.py").write_text("print('other code')"),
        lambda folder: (folder / "release" / "configs" / "cpu.pbtxt").write_text('name: "x"'),
        lambda folder: (folder / "libcustom.so").write_bytes(b"code"),
        lambda folder: (folder / "canary.npz").unlink(),
        lambda folder: (folder / signing.SEAL).unlink(),
        lambda folder: (folder.parent / "triton_python_backend_stub").write_bytes(b"code"),
        lambda folder: (folder / "__pycache__").symlink_to(folder.parents[2]),
        lambda folder: (folder / "release" / "numpy").symlink_to(folder.parents[2]),
    ],
    ids=["code", "configuration", "added", "removed", "seal", "stub", "byte code by a link", "package by a link"],
)
def test_a_release_that_was_changed_on_disk_is_not_served(tmp_path, config, change):
    first = staged(config, tmp_path / "1", 1)
    switch = switching.Switch(config)
    switch.move_in("mira_net", 1)
    switch.point("mira_net", 1)
    switch.finish()
    folder = config.models / "mira_net" / "1"
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "model.pyc").write_bytes(b"compiled by Triton's stub, or by somebody else")
    repository.verify(config, first, 1)
    assert not (folder / "__pycache__").exists()
    change(folder)
    with pytest.raises(ServingFailed):
        repository.verify(config, first, 1)


# on disk


def staged(config, root, version, gain=0.1):
    release = read_release(*make_release(root, version, gain=gain))
    repository.stage(config, release.models[0], version, {"threads": "1"})
    record = repository.ReleaseRecord(
        artifacts=release.artifacts, decision_sha256=release.decision_sha256, promoted="now", by="me"
    )
    before = repository.read_served(config)
    return repository.Served(version=version, since="now", releases={**before.releases, version: record})


def first_serves(config, root):
    """Version 1 is on disk as a promotion leaves it."""
    first = staged(config, root, 1)
    switch = switching.Switch(config)
    switch.move_in("mira_net", 1)
    switch.point("mira_net", 1)
    switch.finish()
    repository.write_served(config, first)
    return first


def tree(root):
    return {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def test_switch_moves_in_and_undo_leaves_every_byte_as_it_was(tmp_path, config):
    first_serves(config, tmp_path / "1")
    repository.remove_candidates(config)
    before = tree(config.models)
    times = (config.models / "mira_net" / "config.pbtxt").stat().st_mtime_ns
    for version, gain in ((2, 0.2), (1, 0.9)):  # a new version, and another network under the same number
        staged(config, tmp_path / f"again{version}", version, gain)
        switch = switching.Switch(config)
        switch.move_in("mira_net", version)
        switch.point("mira_net", version)
        assert repository.points_to(config, "mira_net", version)
        switch.undo()
        repository.remove_candidates(config)
        assert tree(config.models) == before
        assert (config.models / "mira_net" / "config.pbtxt").stat().st_mtime_ns == times


def test_repair_brings_back_the_served_network_that_a_killed_promotion_set_aside(tmp_path, config):
    first = first_serves(config, tmp_path / "1")
    staged(config, tmp_path / "other", 1, gain=0.9)
    killed = switching.Switch(config)
    killed.move_in("mira_net", 1)
    killed.point("mira_net", 1)
    with pytest.raises(ServingFailed, match=r"not the one that served\.json names"):
        repository.verify(config, first, 1)
    switching.repair(config, first)
    repository.verify(config, first, 1)
    assert repository.points_to(config, "mira_net", 1)
    assert not list(config.models.glob(".undo-*"))


def test_one_change_at_a_time(config):
    with repository.locked(config), pytest.raises(ServingFailed, match="Another promotion"), repository.locked(config):
        pass


def test_what_does_not_agree_during_a_change_is_said_to_pass_and_after_a_killed_one_it_is_not(tmp_path, config):
    first_serves(config, tmp_path / "1")
    assert (status.read(config, "off").changing, status.read(config, "off").disagreements) == ("", [])
    fresh = config.models / "mira_net" / ".new-configs"
    with account.audited(config, "promote", "me", version=2), repository.locked(config):
        fresh.mkdir()
        (config.models / "mira_net" / "config.pbtxt").unlink()
        seen = status.read(config, "off")
    assert seen.changing.startswith("promote of version 2, begun ")
    assert [text for text in seen.disagreements if ".new-configs" in text] == []  # nobody is told to remove it
    assert "not yet      mira_net: the configuration on disk" in status.describe(seen)
    assert "DISAGREES" not in status.describe(seen)
    audit.append(config.audit, "promote", "begun", version=3)  # and then it was killed: it holds nothing any more
    seen = status.read(config, "off")
    assert seen.changing == ""
    assert ".new-configs, which no promotion put there" in status.describe(seen)


# the registry


def test_champion_alias_is_read_moved_and_removed(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
    assert registry.champion(uri) is None
    client.create_registered_model("mira_net")
    for _ in range(2):
        client.create_model_version("mira_net", source=str(tmp_path))
    assert registry.champion(uri) is None
    registry.move_champion(uri, 2)
    assert registry.champion(uri) == 2
    with pytest.raises(ServingFailed, match="version 9"):
        registry.move_champion(uri, 9)
    assert registry.champion(uri) == 2


def test_where_the_registry_is_looked_for(tmp_path, monkeypatch):
    paths = ServingPaths(workspace=tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert registry.tracking_uri(paths) == registry.OFF
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert registry.tracking_uri(paths) == "http://mlflow:5000"
    (tmp_path / "mlflow.db").touch()
    assert registry.tracking_uri(paths) == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert registry.tracking_uri(paths, "off") == registry.OFF


# the machine


@pytest.mark.parametrize(
    ("system", "machine", "libc", "words"),
    [
        ("Darwin", "arm64", ("", ""), "Darwin arm64"),
        ("Linux", "riscv64", ("glibc", "2.36"), "riscv64"),
        ("Linux", "x86_64", ("glibc", "2.34"), "2.34"),
        ("Linux", "x86_64", ("", ""), "another C library"),
    ],
)
def test_where_the_binary_cannot_run_the_alternatives_are_named(monkeypatch, system, machine, libc, words):
    monkeypatch.setattr(binary.platform, "system", lambda: system)
    monkeypatch.setattr(binary.platform, "machine", lambda: machine)
    monkeypatch.setattr(binary.platform, "libc_ver", lambda: libc)
    with pytest.raises(ServingFailed, match=words) as caught:
        binary.check_machine()
    assert "mira restore --model" in str(caught.value)


def test_a_server_process_is_given_nothing_of_the_callers_secrets(monkeypatch, tmp_path):
    monkeypatch.setenv("MIRA_KEY", "secret")
    variables = binary.TritonBinary(tmp_path, tmp_path / "venv", None).variables(3)
    assert "MIRA_KEY" not in variables
    assert variables["PATH"].startswith(str(tmp_path / "venv" / "bin"))
    assert variables["OMP_NUM_THREADS"] == "3"


def test_state_of_a_process_that_is_gone_is_cleared(config):
    ticks = processes.start_ticks(1)
    assert ticks is not None
    state = server.ServerState(
        pid=1, ticks=ticks + 1, url="127.0.0.1:1", repository=config.models, started="then", shared_memory="mira-none-"
    )
    write_json(config.server, state.model_dump(mode="json"))
    assert server.running(config) is None  # process 1 lives, but it is not the one that was started
    assert not config.server.exists()
    assert processes.start_ticks(1) == ticks
