"""Where a run of the pipeline serves is asked for before its training."""

import pytest

from components.promote.paths import ServingPaths
from components.promote.step import PromoteConfig
from components.promote.triton import TritonAdmin
from components.promote.where import EMBEDDED, IN_A_POD, check, url_of
from mira.errors import ConfigurationError, ServingFailed


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.delenv(IN_A_POD, raising=False)
    return ServingPaths(workspace=tmp_path / "ws", repository=tmp_path / "models")


@pytest.mark.parametrize("given", ["", " ", "triton", "http://triton:8001", "triton:grpc", "a b:8001", "Embedded"])
def test_what_is_no_address_is_refused_with_what_to_give(paths, given):
    with pytest.raises(ConfigurationError, match=r"no HOST:PORT\. Give HOST:PORT of the Triton that serves"):
        check(paths, given)


def test_a_server_beside_the_run_is_for_one_machine_and_not_for_a_pod(paths, monkeypatch):
    check(paths, EMBEDDED)
    monkeypatch.setenv(IN_A_POD, "mira-factory-abcde-system-container-impl-1")
    with pytest.raises(ConfigurationError, match="would end with the pod"):
        check(paths, EMBEDDED)


def test_a_triton_that_does_not_answer_ends_the_run_at_once(paths):
    with pytest.raises(ServingFailed, match=r"No Triton answers at 127\.0\.0\.1:1,"):
        check(paths, "127.0.0.1:1")


@pytest.mark.parametrize("given", ["triton.serving.svc:8001", "10.1.2.3:8001", "[fd00::1]:8001"])
def test_one_that_answers_is_what_promote_is_given(paths, monkeypatch, given):
    monkeypatch.setattr(TritonAdmin, "live", lambda self: self.url == given)
    check(paths, given)
    assert url_of(given) == given


def test_embedded_is_an_empty_address_in_the_parameters_of_promote():
    assert url_of(EMBEDDED) == PromoteConfig().url == ""
