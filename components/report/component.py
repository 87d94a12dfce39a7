"""KFP component of the report step."""

from typing import NamedTuple

from kfp import dsl

from components.kubeflow import component


@component("report")
def report(
    cases: dsl.Input[dsl.Dataset],
    validation: dsl.Input[dsl.Dataset],
    pairs: dsl.Input[dsl.Dataset],
    networks: dsl.Input[dsl.Model],
    evaluation: dsl.Input[dsl.Artifact],
    decision: dsl.Input[dsl.Artifact],
    workspace: str,
    page: dsl.Output[dsl.HTML],
    version: dsl.Input[dsl.Artifact] = None,
    exported: dsl.Input[dsl.Artifact] = None,
    promotion: dsl.Input[dsl.Artifact] = None,
    restoration: dsl.Input[dsl.Artifact] = None,
) -> NamedTuple("Result", [("verdict", str)]):
    """Write the run's report: one HTML page that opens with no internet.

    Args:
        cases: what ingest gave.
        validation: what validate gave.
        pairs: what pair gave.
        networks: the candidate's networks.
        evaluation: what evaluate gave.
        decision: what gate gave.
        workspace: folder where the newest report is kept for people, beside the artifact.
        page: the report.
        version: what register gave, if the gate approved.
        exported: what export gave, if the gate approved.
        promotion: what promote gave, if the gate approved.
        restoration: what restore gave, if the gate approved.

    Returns:
        `approved` or `refused`.
    """
    import json
    import shutil
    from pathlib import Path

    from components.command import reported
    from components.report.step import ReportConfig
    from components.report.step import report as run

    inputs = {
        "cases": cases,
        "validation": validation,
        "pairs": pairs,
        "evaluation": evaluation,
        "decision": decision,
        "version": version,
        "exported": exported,
        "promotion": promotion,
        "restore": restoration,
    }
    parts = {name: Path(artifact.path) for name, artifact in inputs.items() if artifact is not None}
    for folder in sorted(Path(networks.path).iterdir()):
        parts[f"network:{folder.name}"] = folder
    with reported("report"):
        made = run(parts, Path(page.path).parent / "report", ReportConfig(workspace=workspace))
    shutil.copyfile(made, page.path)
    if workspace:
        shutil.copyfile(made, Path(workspace) / "report.html")
        where = {name: str(path) for name, path in parts.items()}
        (Path(workspace) / "artifacts.json").write_text(json.dumps(where, indent=2), encoding="utf-8")
    approved = json.loads((Path(decision.path) / "decision.json").read_text(encoding="utf-8"))["approved"]
    return ("approved" if approved else "refused",)
