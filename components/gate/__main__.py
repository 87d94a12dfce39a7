"""Command line of the gate step; exit code 4 when the candidate is refused."""

import sys
from pathlib import Path

from components.command import main
from components.gate.step import GateConfig, GateSummary, gate
from mira.errors import ConfigurationError, GateFailed


def decide(evaluation: Path, policy: Path, out: Path, config: GateConfig) -> GateSummary:
    """Read the policy's file, decide, and turn a refusal into the exit code of a failed gate."""
    try:
        text = policy.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"Cannot read the policy {policy}: {error.strerror}.") from error
    summary = gate(evaluation, text, out)
    if not summary.approved:
        raise GateFailed(f"The candidate is refused by: {', '.join(summary.failed)}. Figures: {out / 'decision.md'}.")
    return summary


if __name__ == "__main__":
    sys.exit(
        main(
            "gate",
            GateConfig,
            ["evaluation", "policy", "out"],
            decide,
            "Decide by a policy whether a candidate may be promoted; write decision.json and decision.md.",
        )
    )
