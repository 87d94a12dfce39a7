"""Which of two versions restores a series while a candidate has a share of them: the one source of truth is the server.

A candidate is a model of its own beside the served one, `mira_net_candidate`, whose configuration names the share. A
client asks for that configuration before each series that it can name, and a hash of the name decides. So a series
always goes to the same version, whoever asks; callers who name no series get the version that serves; and a candidate
that was withdrawn is simply not there.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

SUFFIX = "_candidate"
PARAMETER = "canary_share"


def candidate_of(model: str) -> str:
    """Name under which the candidate of a served model is loaded."""
    return model + SUFFIX


@dataclass(frozen=True)
class Candidate:
    """A candidate as the server describes it.

    Attributes:
        name: its name as a served model.
        version: its version.
        share: part of the series that it restores, 0 to 1.
        instruction_size: length of its instruction.
    """

    name: str
    version: str
    share: float
    instruction_size: int

    def restores(self, series: str) -> bool:
        """Whether a series, named by its UID, falls to the candidate. Each candidate gets other series."""
        digest = hashlib.sha256(f"{self.version}\0{series}".encode()).digest()
        return int.from_bytes(digest[:8], "big") < self.share * 2.0**64


def described(config: Any) -> Candidate | None:
    """The candidate of a ModelConfig message; None when it names no share.

    Args:
        config: what Triton answers to ModelConfig.
    """
    if PARAMETER not in config.parameters:
        return None
    sizes = [int(tensor.dims[-1]) for tensor in config.input if tensor.name == "instruction"]
    versions = list(config.version_policy.specific.versions)
    share = float(config.parameters[PARAMETER].string_value)
    return Candidate(config.name, str(versions[0]), share, sizes[0]) if sizes and versions else None
