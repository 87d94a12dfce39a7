"""KFP component of the gate step."""

from kfp import dsl

from components.kubeflow import component


@component("report")
def gate(
    evaluation: dsl.Input[dsl.Artifact],
    policy: str,
    decision: dsl.Output[dsl.Artifact],
    summary: dsl.Output[dsl.Markdown],
) -> bool:
    """Decide by the policy whether the candidate may be promoted.

    Args:
        evaluation: what evaluate gave.
        policy: the gate policy as YAML text.
        decision: decision.json, every rule with its figure and threshold.
        summary: the same as a table.

    Returns:
        Whether the candidate is approved.
    """
    import shutil
    from pathlib import Path

    from components.command import reported
    from components.gate.step import gate as run

    out = Path(decision.path)
    with reported("gate"):
        result = run(Path(evaluation.path), policy, out)
    shutil.copyfile(out / "decision.md", summary.path)
    return bool(result.approved)
