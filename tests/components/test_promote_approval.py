"""Whose approval a promotion in manual mode takes."""

from dataclasses import replace

import pytest

from components.promote import audit, registry, signing
from components.promote.exported import read_release
from components.promote.step import PromoteConfig, check_approval
from mira.errors import GateFailed
from tests.triton.tiny_network import make_release


def test_an_approval_of_a_number_counts_only_while_the_number_is_one_decisions(tmp_path):
    config = PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)
    manual, wanted = config.model_copy(update={"approval": "manual"}), read_release(*make_release(tmp_path, 4))
    audit.append(config.audit, "promote", "failed", version=4, decision_sha256=wanted.decision_sha256)
    with pytest.raises(GateFailed, match="--why TEXT` and promote"):
        check_approval(manual, wanted)
    audit.append(config.audit, "approve", "done", version=4)
    check_approval(manual, wanted)
    other = replace(wanted, decision_sha256="a" * 64)  # of a registry that was begun anew
    with pytest.raises(GateFailed, match="--why TEXT --decision FILE` and promote again"):
        check_approval(manual, other)
    audit.append(config.audit, "approve", "done", version=4, decision_sha256="a" * 64)
    check_approval(manual, other)


def test_an_approval_that_was_written_without_the_key_does_not_count(tmp_path, monkeypatch):
    config = PromoteConfig(workspace=tmp_path / "ws", repository=tmp_path / "models", tracking_uri=registry.OFF)
    manual, wanted = config.model_copy(update={"approval": "manual"}), read_release(*make_release(tmp_path, 4))
    audit.append(config.audit, "promote", "failed", version=4)
    with monkeypatch.context() as forger:  # anybody who can write the file
        forger.delenv(signing.KEY_VARIABLE)
        forger.setenv("HOME", str(tmp_path))
        audit.append(config.audit, "approve", "done", who="Dr. Chief", version=4)
    for _ in range(2):
        assert audit.verify(config.audit) == ""  # lines behind the head are no fault
        with pytest.raises(GateFailed, match="was not written with the signing key and does not count"):
            check_approval(manual, wanted)
        audit.append(config.audit, "promote", "failed", version=4)  # its head counts that line, which proves nothing
    audit.append(config.audit, "approve", "done", who="Dr. Chief", version=4)
    check_approval(manual, wanted)
