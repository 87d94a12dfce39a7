"""What a user is told of an image that the network does not take for what was declared: by the verb and in Python."""

import json
from dataclasses import replace

import numpy as np
import pytest

from mira.cli import main
from mira.client import LocalRestorer
from mira.client.engines import LocalEngine
from mira.client.series import restore_nifti, restore_series
from mira.tasks import Modality
from mira.volume import Volume, write_nifti
from tests.mira.test_client_series import series
from tests.triton.tiny_network import tiny_network


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    return tiny_network(tmp_path_factory.mktemp("network") / "model.onnx", gain=0.0)


@pytest.fixture
def seen_as(monkeypatch):
    """Let the network see given probabilities of CT, PET and MR in every slice."""

    def see(*probabilities):
        known = LocalEngine.infer

        def infer(engine, batch):
            rows = np.tile(np.array(probabilities, np.float32), (len(batch.image), 1))
            return replace(known(engine, batch), modality_probability=rows)

        monkeypatch.setattr(LocalEngine, "infer", infer)

    return see


def verb(tmp_path, network, *more):
    return ["restore", str(tmp_path / "in"), "--model", str(network), "--out", str(tmp_path / "out"), *more]


@pytest.mark.parametrize(
    ("probabilities", "words"),
    [((0.1, 0.1, 0.8), "modality-disagreement: declared CT"), ((0.4, 0.3, 0.3), "out-of-distribution: the network")],
)
def test_the_verb_says_it_in_words_and_in_json(tmp_path, network, seen_as, capsys, probabilities, words):
    series(tmp_path / "in", "CT", slices=4)
    seen_as(*probabilities)
    assert main(verb(tmp_path, network)) == 0
    assert f"  warning: {words}" in capsys.readouterr().out
    with LocalRestorer(network) as restorer:
        assert any(
            text.startswith(words) for text in restore_series(restorer, tmp_path / "in", tmp_path / "b").warnings
        )
    (tmp_path / "out").rename(tmp_path / "first")
    assert main(verb(tmp_path, network, "--json")) == 0
    warnings = json.loads(capsys.readouterr().out)["restored"][0]["warnings"]
    assert any(text.startswith(words) for text in warnings)


def test_a_wrong_unit_is_noticed_by_its_values(tmp_path, network):
    write_nifti(tmp_path / "in.nii", Volume(np.full((4, 40, 40), 20_000.0, np.float32), np.eye(4)))
    with LocalRestorer(network) as restorer:
        delivered = restore_nifti(restorer, tmp_path / "in.nii", tmp_path / "out.nii", Modality.CT)
    assert "Look at the unit" in delivered.warnings[0]


def test_what_fits_is_not_warned_of(tmp_path, network, seen_as, capsys):
    series(tmp_path / "in", "CT", slices=4)
    seen_as(0.9, 0.05, 0.05)
    assert main(verb(tmp_path, network)) == 0
    assert "disagreement" not in (said := capsys.readouterr().out)
    assert "out-of-distribution" not in said
